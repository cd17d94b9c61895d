//! What clones cost their host in memory.

use anyhow::{Context, Result};

use super::clones::tear_down;
use super::parent::Parent;
use crate::memory::Usage;
use crate::report::{Report, Unit};

const COUNTS: [u32; 4] = [1, 10, 100, 1000];

/// Forks that run and wait for requests: what this process has more of for each.
pub(super) fn per_clone(parent: &Parent, report: &mut Report) -> Result<()> {
    let mut options = parent.options(&parent.tap);
    for network in options.overrides.networks.values_mut() {
        network.tap = Some(sandbox::spec::TapSpec::default());
    }
    for count in COUNTS {
        let case = format!("sdk/http-reply-{count}/in_process/fork");
        let before = Usage::now()?;
        let forked = parent
            .sandbox
            .as_fork()
            .context("forks are missing")?
            .fork(count, &options);
        let clones = match forked {
            Ok(clones) => clones,
            Err(error) => {
                // A host may have fewer descriptors than so many need.
                report.failed(&case, error.report());
                continue;
            }
        };
        for clone in &clones {
            let renewed = clone.sandbox.as_renewed().context("no clone")?;
            renewed.wait_confirmed(crate::cold_start::PATIENCE)?;
        }
        let after = Usage::now()?;
        let each = |before: u64, after: u64| after.saturating_sub(before) as f64 / f64::from(count);
        let (private, proportional) = (
            each(before.private, after.private),
            each(before.proportional, after.proportional),
        );
        report.add(&case, "private_bytes", Unit::Bytes, private, None);
        report.add(&case, "pss_bytes", Unit::Bytes, proportional, None);
        for clone in clones {
            tear_down(clone)?;
        }
    }
    Ok(())
}
