//! Linux' own network driver: whole streams in both directions, with the work of segmentation left undone.

use std::io::{Read, Write};
use std::net::TcpListener;

use sandbox::stats::NetworkStats;

use super::support::PATIENCE;
use super::support::linux::{Assets, CLOUD, Shell};
use super::support::network::{GUEST, HOST, Pinger, connect, in_namespace, network, request_path, response};

/// The lines that guest and host both know.
const LINES: u32 = 400_000;
const MTU: u64 = 1500;

fn text() -> Vec<u8> {
    (1..=LINES).flat_map(|line| format!("{line}\n").into_bytes()).collect()
}

fn counters(shell: &Shell) -> NetworkStats {
    shell.sandbox.stats().unwrap().networks[0].clone()
}

#[test]
fn streams_arrive_whole_and_in_frames_beyond_the_mtu() {
    let Some(assets) = Assets::find() else { return };
    in_namespace(move || {
        let mut spec = assets.shell(CLOUD, &format!("sandbox.net0={GUEST}/24"));
        let mut network = network();
        network.mac = Some("02:00:5e:10:20:30".to_owned());
        spec.networks = vec![network];
        let shell = Shell::boot(&spec);
        assert_eq!(shell.run("cat /sys/class/net/eth0/address"), "02:00:5e:10:20:30");
        shell.run(&format!("seq 1 {LINES} > /tmp/text"));
        shell.run("killall httpd; httpd -p 80 -h /tmp");
        the_guest_sends(&shell);
        the_guest_receives(&shell);
        a_pause_does_not_break_a_stream(&shell);
        packets_of_every_length_pass();
        shell.power_off();
    });
}

fn the_guest_sends(shell: &Shell) {
    let before = counters(shell);
    let mut stream = connect(GUEST);
    request_path(&mut stream, "/text");
    assert!(response(&mut stream) == text(), "data was lost or mixed up");
    let after = counters(shell);
    let bytes = after.sent_bytes - before.sent_bytes;
    let frames = after.sent_frames - before.sent_frames;
    assert!(bytes / frames > MTU, "{bytes} bytes in {frames} frames");
}

fn the_guest_receives(shell: &Shell) {
    let before = counters(shell);
    let listener = TcpListener::bind((HOST, 9000)).unwrap();
    let command = shell.begin(&format!("nc {HOST} 9000 < /dev/null > /tmp/received"));
    let (mut stream, _) = listener.accept().unwrap();
    stream.write_all(&text()).unwrap();
    drop(stream);
    assert_eq!(command.end(), (0, String::new()));
    shell.run("cmp /tmp/text /tmp/received");
    let after = counters(shell);
    let bytes = after.received_bytes - before.received_bytes;
    let frames = after.received_frames - before.received_frames;
    assert!(bytes / frames > MTU, "{bytes} bytes in {frames} frames");
}

fn a_pause_does_not_break_a_stream(shell: &Shell) {
    let listener = TcpListener::bind((HOST, 9001)).unwrap();
    let command = shell.begin(&format!("nc {HOST} 9001 < /tmp/text"));
    let (mut stream, _) = listener.accept().unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    let mut received = vec![0; 64 << 10];
    stream.read_exact(&mut received).unwrap();
    shell.sandbox.pause().unwrap();
    let paused = counters(shell);
    shell.sandbox.resume().unwrap();
    stream.read_to_end(&mut received).unwrap();
    assert!(received == text(), "data was lost or mixed up");
    assert!(
        counters(shell).sent_bytes > paused.sent_bytes,
        "all was sent before the pause"
    );
    drop(stream);
    assert_eq!(command.end(), (0, String::new()));
}

fn packets_of_every_length_pass() {
    let mut pinger = Pinger::new(GUEST);
    // The last ones are longer than a frame, so both sides put fragments together.
    for bytes in [0, 1, 1472, 1473, 9000] {
        pinger.ping(bytes);
    }
}
