//! Time and randomness.

use std::time::{SystemTime, UNIX_EPOCH};

use super::support::linux::{Assets, CLOUD, Shell};

fn host_time() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_secs()
}

#[test]
fn clocks_have_the_right_time_and_random_numbers_come_from_the_host() {
    let Some(assets) = Assets::find() else { return };
    let mut spec = assets.shell(CLOUD, "");
    spec.rng = true;
    let shell = Shell::boot(&spec);
    for command in ["date +%s", "cat /sys/class/rtc/rtc0/since_epoch"] {
        let before = host_time();
        let guest: u64 = shell.run(command).parse().unwrap();
        let after = host_time();
        assert!(
            (before - 2..=after + 2).contains(&guest),
            "{command}: {guest}, and the host's is {before} to {after}"
        );
    }
    let source = shell.run("cat /sys/devices/system/clocksource/clocksource0/current_clocksource");
    assert!(matches!(&*source, "tsc" | "kvm-clock"), "{source}");
    assert_eq!(shell.run("cat /sys/class/misc/hw_random/rng_current"), "virtio_rng.0");
    let random = || shell.run("head -c 32 /dev/hwrng | xxd -p -c 32");
    let (first, second) = (random(), random());
    assert!(first.len() == 64 && first != second, "{first} {second}");
    shell.power_off();
}
