//! What a function's document says in words that differ from instance to instance.

use std::net::IpAddr;

use sandbox::SandboxSpec;
use sandbox::spec::GuestSpec;

/// The values of one instance.
#[derive(Clone, Debug)]
pub(super) struct Placeholders {
    /// Its address with prefix length.
    pub(super) guest_address: String,
    /// The host's address.
    pub(super) gateway: IpAddr,
    /// Its name.
    pub(super) instance: String,
    /// Where it may POST that it is ready.
    pub(super) ready_url: String,
}

impl Placeholders {
    /// Fills in every text that the guest is given.
    pub(super) fn fill(&self, spec: &mut SandboxSpec) {
        match &mut spec.guest {
            GuestSpec::Linux(linux) => self.replace(&mut linux.cmdline),
            GuestSpec::Unikernel(unikernel) => {
                unikernel.cmdline.iter_mut().for_each(|text| self.replace(text));
                unikernel.args.iter_mut().for_each(|text| self.replace(text));
                unikernel.env.iter_mut().for_each(|text| self.replace(text));
            }
            GuestSpec::Container(container) => {
                let process = container.process.iter_mut();
                process
                    .flat_map(|process| process.args.iter_mut().chain(&mut process.env))
                    .for_each(|text| self.replace(text));
            }
            _ => {}
        }
    }

    fn replace(&self, text: &mut String) {
        if !text.contains("${") {
            return;
        }
        *text = text
            .replace("${GUEST_ADDRESS}", &self.guest_address)
            .replace("${GATEWAY}", &self.gateway.to_string())
            .replace("${INSTANCE}", &self.instance)
            .replace("${READY_URL}", &self.ready_url);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_word_is_replaced_wherever_it_stands() {
        let json = br#"{"guest": {"unikernel": {"image": "/x", "args": ["ip=${GUEST_ADDRESS}", "${GATEWAY}"],
            "env": ["NAME=${INSTANCE}", "READY=${READY_URL}", "OTHER=${OTHER}"]}}}"#;
        let mut spec = SandboxSpec::from_json(json).unwrap();
        let values = Placeholders {
            guest_address: "10.0.0.2/30".to_owned(),
            gateway: "10.0.0.1".parse().unwrap(),
            instance: "hello-1".to_owned(),
            ready_url: "http://10.0.0.1:8080/ready".to_owned(),
        };
        values.fill(&mut spec);
        let GuestSpec::Unikernel(guest) = spec.guest else {
            panic!()
        };
        assert_eq!(guest.args, ["ip=10.0.0.2/30", "10.0.0.1"]);
        assert_eq!(
            guest.env,
            ["NAME=hello-1", "READY=http://10.0.0.1:8080/ready", "OTHER=${OTHER}"]
        );
    }
}
