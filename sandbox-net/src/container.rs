//! All networks of one container: a network namespace, and what is attached to it.

use std::os::fd::{AsFd, AsRawFd};
use std::path::{Path, PathBuf};

use sandbox_core::spec::{NetworkSpec, TapSpec};
use sandbox_core::{Error, NetworkState};

use crate::{AttachRequest, Attachment, CniAttachment, CniRequest, NetError, NetNamespace, Networks, OwnNamespace};

/// The networks of a container. Dropping them gives them back.
#[derive(Debug)]
pub struct ContainerNetworks {
    // What is attached goes before the namespace.
    attached: Vec<(String, Attached)>,
    namespace: Namespace,
}

#[derive(Debug)]
enum Attached {
    Bridge(Attachment),
    Cni(CniAttachment),
}

#[derive(Debug)]
enum Namespace {
    /// One that the embedder gave, by a path that means the same to every process as long as it is open.
    Given {
        path: PathBuf,
        _open: NetNamespace,
    },
    Own(OwnNamespace),
}

impl Networks {
    /// Makes the networks that the spec of the container `id` asks for. Its interfaces are `eth0`, `eth1` and so on, in
    /// the order of the spec. Nothing if it asks for none: then the runtime makes a namespace with a loopback interface
    /// alone.
    ///
    /// # Errors
    /// Whatever is wrong with one of them, with the field; [`sandbox_core::ErrorKind::Unsupported`] for what only
    /// micro-VMs have. Nothing is left behind then.
    pub fn for_container(&self, id: &str, specs: &[NetworkSpec]) -> Result<Option<ContainerNetworks>, Error> {
        refuse_what_only_machines_have(specs)?;
        if let Some(path) = specs.first().and_then(|first| first.netns.as_ref()) {
            let open = NetNamespace::open(path).map_err(|error| error.about("networks[0].netns"))?;
            let path = match path.starts_with("/proc/self") || path.starts_with("/proc/thread-self") {
                true => format!("/proc/{}/fd/{}", std::process::id(), open.as_fd().as_raw_fd()).into(),
                false => path.clone(),
            };
            return Ok(Some(ContainerNetworks {
                attached: Vec::new(),
                namespace: Namespace::Given { path, _open: open },
            }));
        }
        if specs.is_empty() {
            return Ok(None);
        }
        let namespace = self.new_namespace(id).map_err(|error| error.about("networks"))?;
        let mut attached = Vec::new();
        for (index, spec) in specs.iter().enumerate() {
            let field = format!("networks[{index}]");
            let one = self.attach(id, spec, &field, &namespace, format!("eth{index}"))?;
            attached.push((spec.id.clone(), one));
        }
        Ok(Some(ContainerNetworks {
            attached,
            namespace: Namespace::Own(namespace),
        }))
    }

    fn attach(
        &self,
        id: &str,
        spec: &NetworkSpec,
        field: &str,
        namespace: &OwnNamespace,
        interface: String,
    ) -> Result<Attached, Error> {
        match (&spec.bridge, &spec.cni) {
            (Some(bridge), _) => {
                let request = AttachRequest::from_spec(id, spec, bridge, field)?;
                self.attach_namespace(&request, namespace.namespace(), &interface)
                    .map(Attached::Bridge)
                    .map_err(|error| error.about_bridge(field))
            }
            (None, Some(cni)) => {
                let request = CniRequest::from_spec(id, cni, namespace.path().to_owned(), interface);
                self.attach_cni(&request)
                    .map(Attached::Cni)
                    .map_err(|error| error.about(&format!("{field}.cni")))
            }
            (None, None) => Err(Error::unsupported(
                format!("{field}.tap"),
                "a container has no tap; give its network as bridge, cni or netns",
            )),
        }
    }
}

fn refuse_what_only_machines_have(specs: &[NetworkSpec]) -> Result<(), Error> {
    for (index, spec) in specs.iter().enumerate() {
        let unsupported =
            |name: &str, context: &'static str| Err(Error::unsupported(format!("networks[{index}].{name}"), context));
        if spec.tap != TapSpec::default() {
            return unsupported(
                "tap",
                "a container has no tap; give its network as bridge, cni or netns",
            );
        }
        if spec.netns.is_some() && specs.len() > 1 {
            return unsupported(
                "netns",
                "a container is in one namespace, which has all its networks; give it alone",
            );
        }
        if spec.receive_limit != Default::default() {
            return unsupported("receive_limit", "cannot be held for a container");
        }
        if spec.send_limit != Default::default() {
            return unsupported("send_limit", "cannot be held for a container");
        }
        let is_ours = spec.bridge.is_some();
        if !is_ours && (spec.mac.is_some() || spec.mtu.is_some() || spec.guest_address.is_some()) {
            return unsupported(
                "bridge",
                "mac, mtu and guest_address are for a managed bridge; others choose their own",
            );
        }
        if spec.gateway.is_some() {
            return unsupported("gateway", "a container's gateway is that of its network");
        }
    }
    Ok(())
}

impl ContainerNetworks {
    /// The namespace, for the runtime.
    pub fn namespace(&self) -> &Path {
        match &self.namespace {
            Namespace::Given { path, .. } => path,
            Namespace::Own(namespace) => namespace.path(),
        }
    }

    /// What there is to tell of them.
    pub fn states(&self) -> Vec<NetworkState> {
        self.attached
            .iter()
            .map(|(id, attached)| match attached {
                Attached::Bridge(attachment) => attachment.state(id),
                Attached::Cni(attachment) => attachment.state(id),
            })
            .collect()
    }

    /// Gives everything back. A second call does nothing.
    ///
    /// # Errors
    /// The first thing that cannot be given back; a later call or a sweep tries again.
    pub fn teardown(&self) -> Result<(), NetError> {
        let mut first_error = Ok(());
        for (_, attached) in &self.attached {
            let result = match attached {
                Attached::Bridge(attachment) => attachment.teardown(),
                Attached::Cni(attachment) => attachment.teardown(),
            };
            first_error = first_error.and(result);
        }
        match &self.namespace {
            Namespace::Given { .. } => first_error,
            Namespace::Own(namespace) => first_error.and(namespace.teardown()),
        }
    }
}
