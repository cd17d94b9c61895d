//! Networks that are made for a micro-VM before it, and go after it: managed bridges, CNI, taps in other namespaces.
//!
//! They are the embedder's side of a card and no part of the machine. What a machine is made from is a spec in which
//! each card has an open tap and, where the network chose them, its addresses.

mod networked;

use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicU64, Ordering};

use sandbox_core::spec::{BridgeSpec, CniSpec, GuestSpec, NetworkSpec, TapSpec};
use sandbox_core::{Error, NetworkState, Result, Sandbox, SandboxSpec};
use sandbox_net::{AttachRequest, Attachment, CniRequest, CniTap, NetNamespace, Networks, Tap};

use crate::assemble::open_tap;
use networked::Networked;

/// What was made for the cards of one micro-VM.
#[derive(Default)]
struct Made {
    /// Whether the guest is told its addresses by us.
    guest_is_told: bool,
    attached: Vec<(NetworkState, Attached)>,
    /// Open until the machine has its own.
    taps: Vec<Tap>,
}

/// What is given back when the machine is gone.
enum Attached {
    Bridge(Box<Attachment>),
    Cni(Box<CniTap>),
}

/// Makes a micro-VM by `make`, from `spec` or, where networks are to be made for it first, from what becomes of `spec`
/// by them.
pub fn create(
    spec: &SandboxSpec,
    make: impl FnOnce(&SandboxSpec) -> Result<Box<dyn Sandbox>>,
) -> Result<Box<dyn Sandbox>> {
    if !spec.networks.iter().any(is_made_before) {
        return make(spec);
    }
    // What is wrong elsewhere in the spec costs no network.
    spec.validate()?;
    let mut resolved = spec.clone();
    let id = resolved.id.get_or_insert_with(made_up_id).clone();
    let networks = Networks::default();
    let mut made = Made {
        guest_is_told: is_told_addresses(&spec.guest),
        ..Made::default()
    };
    for (index, network) in resolved.networks.iter_mut().enumerate() {
        made.card(&networks, &id, network, index)?;
    }
    if let Some(ready) = &mut resolved.ready {
        ready.fill_in(&made.states())?;
    }
    let sandbox = make(&resolved)?;
    made.taps.clear();
    Ok(match made.attached.is_empty() {
        true => sandbox,
        false => Box::new(Networked::new(sandbox, made)),
    })
}

fn is_made_before(network: &NetworkSpec) -> bool {
    network.bridge.is_some() || network.cni.is_some() || network.netns.is_some()
}

/// Whether the guest's family is told addresses on a command line that is ours. Others know their addresses, from
/// [`Sandbox::networks`] or from the card's hardware address.
fn is_told_addresses(guest: &GuestSpec) -> bool {
    matches!(guest, GuestSpec::Unikernel(unikernel) if unikernel.cmdline.is_none())
}

/// A name that no other sandbox of this process has: what is made is written down by it.
fn made_up_id() -> String {
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    format!("vm-{}-net-{number}", std::process::id())
}

impl Made {
    /// Makes what `network`, the card `index` of the sandbox `id`, asks for, and replaces it by what was made.
    fn card(&mut self, networks: &Networks, id: &str, network: &mut NetworkSpec, index: usize) -> Result<()> {
        let field = format!("networks[{index}]");
        let tap = if let Some(bridge) = network.bridge.take() {
            self.bridge(networks, id, network, &bridge, &field)?
        } else if let Some(cni) = network.cni.take() {
            self.cni(networks, &format!("{id}.{index}"), network, &cni, &field)?
        } else if let Some(path) = network.netns.take() {
            let namespace = NetNamespace::open(&path);
            let namespace = namespace.map_err(|error| error.about(&format!("{field}.netns")))?;
            let card = &*network;
            let opened = namespace.run(|| Ok(open_tap(card, &field)));
            opened.map_err(|error| error.about(&format!("{field}.netns")))??
        } else {
            return Ok(());
        };
        network.tap = TapSpec::Fd(tap.as_raw_fd());
        self.taps.push(tap);
        Ok(())
    }

    fn bridge(
        &mut self,
        networks: &Networks,
        id: &str,
        network: &mut NetworkSpec,
        bridge: &BridgeSpec,
        field: &str,
    ) -> Result<Tap> {
        let request = AttachRequest::from_spec(id, network, bridge, field)?;
        let attached = networks.attach_tap(&request);
        let (attachment, tap) = attached.map_err(|error| error.about_bridge(field))?;
        self.attach(
            network,
            attachment.state(&network.id),
            Attached::Bridge(Box::new(attachment)),
        );
        Ok(tap)
    }

    fn cni(
        &mut self,
        networks: &Networks,
        id: &str,
        network: &mut NetworkSpec,
        cni: &CniSpec,
        field: &str,
    ) -> Result<Tap> {
        if network.mac.is_some() || network.guest_address.is_some() {
            let context = "is chosen by the CNI plugins; leave mac and guest_address out";
            return Err(Error::unsupported(format!("{field}.cni"), context));
        }
        let request = CniRequest::from_spec(id, cni, Default::default(), String::new());
        let attached = networks.attach_cni_tap(&request);
        let (attached, tap) = attached.map_err(|error| error.about(&format!("{field}.cni")))?;
        let mut state = attached.attachment().state(&network.id);
        state.mac = Some(attached.mac().to_string());
        self.attach(network, state, Attached::Cni(Box::new(attached)));
        Ok(tap)
    }

    fn attach(&mut self, network: &mut NetworkSpec, state: NetworkState, attached: Attached) {
        network.mac.clone_from(&state.mac);
        network.guest_address = None;
        if self.guest_is_told {
            network.guest_address.clone_from(&state.address);
            network.gateway = network.gateway.or(state.gateway);
        }
        self.attached.push((state, attached));
    }

    fn states(&self) -> Vec<NetworkState> {
        self.attached.iter().map(|(state, _)| state.clone()).collect()
    }

    /// Gives everything back.
    fn teardown(&self) {
        for (state, attached) in &self.attached {
            let result = match attached {
                Attached::Bridge(attachment) => attachment.teardown(),
                Attached::Cni(attached) => attached.teardown(),
            };
            if let Err(error) = result {
                tracing::warn!(%error, network = state.id, "a network is left behind for the next sweep");
            }
        }
    }
}
