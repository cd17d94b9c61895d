//! What the registers do.

use super::*;

#[test]
fn the_identity_registers_tell_a_modern_device() {
    let bench = Bench::new();
    assert_eq!(bench.read(VIRTIO_MMIO_MAGIC_VALUE), 0x7472_6976);
    assert_eq!(bench.read(VIRTIO_MMIO_VERSION), 2);
    assert_eq!(bench.read(VIRTIO_MMIO_DEVICE_ID), 1);
    for register in (VIRTIO_MMIO_SHM_LEN_LOW..=VIRTIO_MMIO_SHM_BASE_HIGH).step_by(4) {
        assert_eq!(bench.read(register), u32::MAX);
    }
}

#[test]
fn features_are_seen_through_two_windows() {
    let bench = Bench::new();
    let mut seen = Vec::new();
    for window in [0, 1, 2, u32::MAX] {
        bench.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, window);
        seen.push(bench.read(VIRTIO_MMIO_DEVICE_FEATURES));
    }
    assert_eq!(seen, [OFFERED as u32, 1, 0, 0]);
}

#[test]
fn a_driver_that_keeps_the_order_gets_a_running_device() {
    let bench = Bench::new();
    bench.start(OFFERED);
    assert_eq!(
        bench.read(VIRTIO_MMIO_STATUS),
        ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    );
    let kick = || {
        bench
            .transport
            .write(u64::from(VIRTIO_MMIO_QUEUE_NOTIFY), &1u32.to_le_bytes())
    };
    assert_eq!([kick(), kick()], [Progress::More, Progress::Waiting]);
    let device = bench.device();
    assert_eq!(device.kicks, [1, 1]);
    let activation = device.activation.as_ref().unwrap();
    assert_eq!(activation.features, OFFERED | 1 << VIRTIO_F_VERSION_1);
    let sizes: Vec<u16> = activation.queues.iter().map(QueueT::size).collect();
    assert_eq!(sizes, [16, 4]);
    assert!(
        activation
            .queues
            .iter()
            .all(|queue| queue.ready() && queue.event_idx_enabled())
    );
    assert_eq!(activation.queues[1].desc_table(), 0x2000);
    assert_eq!(bench.line.pulses(), 0);
}

#[test]
fn all_steps_at_once_are_as_good_as_one_by_one() {
    let bench = Bench::new();
    bench.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER);
    bench.accept(1 << VIRTIO_F_VERSION_1);
    bench.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK);
    assert_eq!(
        bench.read(VIRTIO_MMIO_STATUS),
        ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK
    );
    let device = bench.device();
    let queues = &device.activation.as_ref().unwrap().queues;
    assert!(queues.iter().all(|queue| !queue.ready()));
}

#[test]
fn steps_out_of_order_are_ignored() {
    let bench = Bench::new();
    for early in [DRIVER, FEATURES_OK, DRIVER_OK, 0xffff_0000] {
        bench.write(VIRTIO_MMIO_STATUS, early);
        assert_eq!(bench.read(VIRTIO_MMIO_STATUS), 0);
    }
    bench.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | FEATURES_OK | DRIVER_OK);
    assert_eq!(bench.read(VIRTIO_MMIO_STATUS), ACKNOWLEDGE);
    assert_eq!(bench.device().activations, 0);
}

#[test]
fn version_1_is_accepted_by_using_its_registers() {
    let bench = Bench::new();
    bench.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER);
    bench.accept(OFFERED);
    bench.go();
    let features = bench.device().activation.as_ref().unwrap().features;
    assert_eq!(features, OFFERED | 1 << VIRTIO_F_VERSION_1);
}

#[test]
fn features_never_offered_are_masked() {
    let bench = Bench::new();
    bench.start(u64::MAX);
    let features = bench.device().activation.as_ref().unwrap().features;
    assert_eq!(features, OFFERED | 1 << VIRTIO_F_VERSION_1);
}

#[test]
fn features_are_fixed_once_negotiated() {
    let bench = Bench::new();
    bench.negotiate(0);
    bench.accept(u64::MAX);
    bench.go();
    let features = bench.device().activation.as_ref().unwrap().features;
    assert_eq!(features, 1 << VIRTIO_F_VERSION_1);
}

#[test]
fn queues_are_set_up_between_features_ok_and_driver_ok_only() {
    let bench = Bench::new();
    bench.set_up_queue(0, 16, [0x1000, 0x1100, 0x1200]);
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_READY), 0);
    bench.start(0);
    bench.set_up_queue(0, 2, [0x8000, 0x8100, 0x8200]);
    bench.write(VIRTIO_MMIO_QUEUE_READY, 0);
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_READY), 1);
    let registers = bench.transport.registers();
    assert_eq!(
        (registers.queues[0].size, registers.queues[0].descriptors),
        (16, 0x1000)
    );
}

#[test]
fn a_ready_queue_keeps_its_addresses_until_it_is_taken_back() {
    let bench = Bench::new();
    bench.negotiate(0);
    bench.set_up_queue(0, 16, [0x1000, 0x1100, 0x1200]);
    bench.write(VIRTIO_MMIO_QUEUE_DESC_LOW, 0x5000);
    bench.write(VIRTIO_MMIO_QUEUE_NUM, 2);
    let queue = bench.transport.registers().queues[0].clone();
    assert_eq!((queue.size, queue.descriptors), (16, 0x1000));
    bench.write(VIRTIO_MMIO_QUEUE_READY, 0);
    bench.write(VIRTIO_MMIO_QUEUE_DESC_HIGH, 7);
    let queue = bench.transport.registers().queues[0].clone();
    assert_eq!((queue.ready, queue.descriptors), (false, 7 << 32 | 0x1000));
}

#[test]
fn queues_that_the_device_does_not_have_are_of_size_0() {
    let bench = Bench::new();
    bench.negotiate(0);
    let mut sizes = Vec::new();
    for index in [0, 1, 2, 0x1_0000, u32::MAX] {
        bench.set_up_queue(index, 4, [0x1000, 0x1100, 0x1200]);
        sizes.push(bench.read(VIRTIO_MMIO_QUEUE_NUM_MAX));
    }
    assert_eq!(sizes, [16, 8, 0, 0, 0]);
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_READY), 0);
    bench.go();
    for queue in [2, 0x1_0000, u32::MAX] {
        bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue);
    }
    assert!(bench.device().kicks.is_empty());
}

#[test]
fn an_impossible_queue_breaks_the_device_and_a_reset_mends_it() {
    let impossible = [
        (0, [0x1000, 0x1100, 0x1200]),
        (3, [0x1000, 0x1100, 0x1200]),
        (32, [0x1000, 0x1100, 0x1200]),
        (0x1_0004, [0x1000, 0x1100, 0x1200]),
        (4, [0x1001, 0x1100, 0x1200]),
        (4, [0x1000, 0x1101, 0x1200]),
        (4, [0x1000, 0x1100, 0x1202]),
        (4, [1 << 40, 0x1100, 0x1200]),
        (4, [0x1000, 0xf_fffe, 0x1200]),
        (4, [0x1000, 0x1100, !3]),
    ];
    for (size, addresses) in impossible {
        let bench = Bench::new();
        bench.negotiate(0);
        bench.set_up_queue(0, size, addresses);
        bench.go();
        let all = ACKNOWLEDGE | DRIVER | FEATURES_OK | DRIVER_OK;
        assert_eq!(
            bench.read(VIRTIO_MMIO_STATUS),
            all | NEEDS_RESET,
            "{size} {addresses:x?}"
        );
        assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
        assert_eq!((bench.line.pulses(), bench.device().activations), (1, 0));
        bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
        bench.write(VIRTIO_MMIO_STATUS, 0);
        assert_eq!(
            (bench.read(VIRTIO_MMIO_STATUS), bench.read(VIRTIO_MMIO_INTERRUPT_STATUS)),
            (0, 0)
        );
        bench.start(0);
        assert_eq!(bench.read(VIRTIO_MMIO_STATUS), all);
    }
}

#[test]
fn a_device_that_refuses_needs_a_reset_and_gets_no_kicks() {
    let bench = Bench::new();
    bench.device().refuses = true;
    bench.start(0);
    assert_ne!(bench.read(VIRTIO_MMIO_STATUS) & NEEDS_RESET, 0);
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    bench.go();
    assert_eq!(bench.device().activations, 1);
}

#[test]
fn a_reset_gives_everything_up() {
    let bench = Bench::new();
    bench.start(OFFERED);
    bench.device().activation.as_ref().unwrap().interrupt.signal_used();
    bench.write(VIRTIO_MMIO_STATUS, 0);
    assert!(bench.device().activation.is_none());
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), 0);
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert!(bench.device().kicks.is_empty());
    assert_eq!(
        *bench.transport.registers(),
        Registers::new(OFFERED | 1 << VIRTIO_F_VERSION_1, &QUEUE_SIZES)
    );
    bench.start(OFFERED);
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    assert_eq!(bench.device().kicks, [0]);
}

#[test]
fn a_driver_that_failed_can_only_reset() {
    let bench = Bench::new();
    bench.negotiate(0);
    bench.write(VIRTIO_MMIO_STATUS, FAILED);
    bench.go();
    assert_eq!(
        bench.read(VIRTIO_MMIO_STATUS),
        ACKNOWLEDGE | DRIVER | FEATURES_OK | FAILED
    );
    bench.set_up_both_queues();
    assert_eq!(bench.read(VIRTIO_MMIO_QUEUE_READY), 0);
    assert_eq!(bench.device().activations, 0);
    bench.write(VIRTIO_MMIO_STATUS, 0);
    bench.start(0);
    assert_eq!(bench.device().activations, 1);
}

#[test]
fn status_writes_of_a_running_device_start_nothing_again() {
    let bench = Bench::new();
    bench.start(0);
    for _ in 0..100_000 {
        bench.go();
    }
    let device = bench.device();
    assert_eq!((device.activations, device.resets), (1, 0));
}

#[test]
fn interrupt_causes_are_acknowledged_one_by_one() {
    let bench = Bench::new();
    bench.start(0);
    let interrupt = bench.device().activation.as_ref().unwrap().interrupt.clone();
    interrupt.signal_used();
    interrupt.signal_config_change();
    assert_eq!(
        bench.read(VIRTIO_MMIO_INTERRUPT_STATUS),
        VIRTIO_MMIO_INT_VRING | VIRTIO_MMIO_INT_CONFIG
    );
    bench.write(VIRTIO_MMIO_INTERRUPT_ACK, VIRTIO_MMIO_INT_VRING);
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    assert_eq!(bench.line.pulses(), 2);
}

#[test]
fn the_generation_tells_configuration_changes() {
    let bench = Bench::new();
    bench.start(0);
    let interrupt = bench.device().activation.as_ref().unwrap().interrupt.clone();
    let before = bench.read(VIRTIO_MMIO_CONFIG_GENERATION);
    interrupt.signal_used();
    assert_eq!(bench.read(VIRTIO_MMIO_CONFIG_GENERATION), before);
    interrupt.signal_config_change();
    assert_ne!(bench.read(VIRTIO_MMIO_CONFIG_GENERATION), before);
}

#[test]
fn a_device_that_breaks_while_running_shows_it_until_the_reset() {
    let bench = Bench::new();
    bench.start(0);
    bench
        .device()
        .activation
        .as_ref()
        .unwrap()
        .interrupt
        .signal_needs_reset();
    assert_ne!(bench.read(VIRTIO_MMIO_STATUS) & NEEDS_RESET, 0);
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    bench.write(VIRTIO_MMIO_STATUS, 0);
    assert_eq!(bench.read(VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn the_configuration_space_takes_any_width() {
    let bench = Bench::new();
    bench.device().config = std::array::from_fn(|index| index as u8 + 1);
    for (offset, len) in [(0, 1), (3, 1), (1, 2), (4, 4), (8, 8), (5, 3)] {
        let mut data = vec![0xaa; len];
        bench.transport.read(CONFIG + offset, &mut data);
        let expected: Vec<u8> = (0..len as u64).map(|index| (offset + index) as u8 + 1).collect();
        assert_eq!(data, expected);
    }
    let mut data = [0xaa; 4];
    bench.transport.read(CONFIG + 14, &mut data);
    assert_eq!(data, [15, 16, 0, 0]);
    for outside in [0xffe, 0x1000, u64::MAX - 1, u64::MAX] {
        let mut data = [0xaa; 4];
        bench.transport.read(outside, &mut data);
        assert_eq!(data, [0; 4]);
        bench.transport.write(outside, &data);
    }
}

#[test]
fn the_configuration_space_is_written_by_a_driver_only() {
    let bench = Bench::new();
    bench.transport.write(CONFIG, &[1, 2]);
    assert_eq!(bench.device().config[..2], [0, 0]);
    bench.write(VIRTIO_MMIO_STATUS, ACKNOWLEDGE | DRIVER);
    bench.transport.write(CONFIG + 1, &[1, 2]);
    assert_eq!(bench.device().config[..4], [0, 1, 2, 0]);
}

#[test]
fn registers_take_aligned_words_only() {
    let bench = Bench::new();
    for (offset, len) in [
        (0, 1),
        (0, 2),
        (0, 8),
        (1, 4),
        (2, 4),
        (0xfd, 4),
        (0xb1, 4),
        (0, 0),
        (0x48, 4),
    ] {
        let mut data = vec![0xaa; len];
        bench.transport.read(offset, &mut data);
        assert_eq!(data, vec![0; len], "{offset:#x}");
    }
    let status = u64::from(VIRTIO_MMIO_STATUS);
    bench.transport.write(status, &[1]);
    bench.transport.write(status, &[1, 0]);
    bench.transport.write(status, &[1, 0, 0, 0, 0, 0, 0, 0]);
    bench.transport.write(status + 1, &[1, 0, 0, 0]);
    assert_eq!(bench.read(VIRTIO_MMIO_STATUS), 0);
}

#[test]
fn kicks_and_resets_from_several_vcpus_stay_apart() {
    let bench = Bench::new();
    bench.start(0);
    std::thread::scope(|scope| {
        for queue in 0..2 {
            let bench = &bench;
            scope.spawn(move || (0..20_000).for_each(|_| bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, queue)));
        }
        // The device asserts that no kick comes outside its session.
        for _ in 0..500 {
            bench.write(VIRTIO_MMIO_STATUS, 0);
            bench.start(0);
        }
    });
    assert_eq!(bench.device().resets, 500);
}

proptest! {
    /// Whatever a guest does to the window: no panic, nothing grows, and the device sees a correct session.
    #[test]
    fn any_sequence_of_accesses_is_survived(
        accesses in prop::collection::vec((0u64..0x120, 0usize..9, any::<u64>(), any::<bool>()), 0..400),
    ) {
        let bench = Bench::new();
        for (offset, len, value, write) in accesses {
            // Mostly aligned, small values, so that the state machine gets somewhere.
            let (offset, len) = if value & 7 < 6 { (offset & !3, 4) } else { (offset, len) };
            let value = if value & 8 == 0 { value >> 60 } else { value };
            let mut data = value.to_le_bytes();
            match write {
                true => drop(bench.transport.write(offset, &data[..len.min(8)])),
                false => bench.transport.read(offset, &mut data[..len.min(8)]),
            }
        }
        prop_assert_eq!(bench.transport.registers().queues.len(), QUEUE_SIZES.len());
        bench.write(VIRTIO_MMIO_STATUS, 0);
        bench.start(OFFERED);
        prop_assert!(bench.device().activation.is_some());
    }
}
