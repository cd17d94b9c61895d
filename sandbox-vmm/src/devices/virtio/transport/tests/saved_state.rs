//! States that are saved and taken up again.

use super::*;

/// The state of a running device whose queues stand at some position, with an interrupt that nobody has seen.
fn running_state() -> TransportState {
    let bench = Bench::new();
    bench.start(OFFERED);
    {
        let mut device = bench.device();
        let activation = device.activation.as_mut().unwrap();
        activation.queues[0].set_next_avail(7);
        activation.queues[1].set_next_used(0xffff);
        activation.interrupt.signal_config_change();
    }
    bench.transport.freeze().save()
}

#[test]
fn a_driver_finds_its_device_as_it_left_it() {
    let state = running_state();
    let stored = serde_json::to_string(&state).unwrap();
    let bench = Bench::new();
    let state: TransportState = serde_json::from_str(&stored).unwrap();
    bench.transport.restore(&state).unwrap();
    assert_eq!(bench.device().wakes, 0, "nothing is served before the guest runs");
    assert_eq!(bench.line.pulses(), 0);
    assert_eq!(bench.transport.freeze().save(), state);
    assert_eq!(bench.read(VIRTIO_MMIO_INTERRUPT_STATUS), VIRTIO_MMIO_INT_CONFIG);
    let device = bench.device();
    let queues = &device.activation.as_ref().unwrap().queues;
    assert_eq!((queues[0].next_avail(), queues[0].desc_table()), (7, 0x1000));
    assert_eq!((queues[1].next_used(), queues[1].size()), (0xffff, 4));
}

#[test]
fn a_restored_device_is_woken_and_interrupts_all_the_same() {
    let bench = Bench::new();
    bench.transport.restore(&running_state()).unwrap();
    bench.transport.wake();
    assert_eq!((bench.device().wakes, bench.line.pulses()), (1, 1));
    assert_ne!(
        bench.read(VIRTIO_MMIO_INTERRUPT_STATUS) & VIRTIO_MMIO_INT_VRING,
        0,
        "else its driver would not look at the rings"
    );
}

#[test]
fn a_device_without_a_driver_stays_so() {
    let (old, new) = (Bench::new(), Bench::new());
    old.negotiate(OFFERED);
    let state = old.transport.freeze().save();
    new.transport.restore(&state).unwrap();
    new.transport.wake();
    assert_eq!((new.device().activations, new.line.pulses()), (0, 0));
    new.set_up_both_queues();
    new.go();
    assert_eq!(new.device().activations, 1);
}

#[test]
fn a_broken_device_is_still_broken_and_a_reset_mends_it() {
    let mut state = running_state();
    state.interrupt.needs_reset = true;
    let bench = Bench::new();
    bench.transport.restore(&state).unwrap();
    assert_ne!(bench.read(VIRTIO_MMIO_STATUS) & NEEDS_RESET, 0);
    bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 0);
    bench.write(VIRTIO_MMIO_STATUS, 0);
    bench.start(OFFERED);
    assert_eq!(bench.device().activations, 1);
}

#[test]
fn features_that_the_new_device_has_on_top_stay_unknown_to_the_driver() {
    let mut state = running_state();
    state.registers.offered &= !(1 << 5);
    let bench = Bench::new();
    bench.transport.restore(&state).unwrap();
    bench.write(VIRTIO_MMIO_DEVICE_FEATURES_SEL, 0);
    assert_eq!(bench.read(VIRTIO_MMIO_DEVICE_FEATURES), 1 << VIRTIO_RING_F_EVENT_IDX);
    let device = bench.device();
    assert_eq!(device.activation.as_ref().unwrap().features & (1 << 5), 0);
}

#[test]
fn states_that_no_device_is_in_are_refused() {
    type Damage = fn(&mut TransportState);
    let cases: [(Damage, Impossible); 7] = [
        (|state| state.registers.status = DRIVER, Impossible::DriverStatus),
        (|state| state.registers.status = 0xffff_ffff, Impossible::DriverStatus),
        (|state| state.registers.status &= !DRIVER_OK, Impossible::DriverStatus),
        (|state| state.registers.queues[0].max_size = 32, Impossible::Queues),
        (|state| state.session = Some(Vec::new()), Impossible::Queues),
        (|state| state.registers.queues[0].size = 5, Impossible::QueueLayout),
        (
            |state| state.registers.queues[1].device = 1 << 40,
            Impossible::QueueAddress,
        ),
    ];
    for (damage, expected) in cases {
        let mut state = running_state();
        damage(&mut state);
        let bench = Bench::new();
        match bench.transport.restore(&state) {
            Err(RestoreError::Impossible(found)) => assert_eq!(found, expected),
            other => panic!("{expected:?}: {other:?}"),
        }
        assert_eq!(bench.device().activations, 0);
    }
}

#[test]
fn a_device_of_another_kind_or_without_what_the_driver_uses_is_refused() {
    let bench = Bench::new();
    let mut state = running_state();
    state.registers.driver_features |= 1 << 9;
    state.registers.offered |= 1 << 9;
    let error = bench.transport.restore(&state).unwrap_err();
    assert!(
        matches!(error, RestoreError::FeaturesMissing(bits) if bits == 1 << 9),
        "{error}"
    );
    state.device = DeviceState::Rng;
    let error = bench.transport.restore(&state).unwrap_err();
    assert!(matches!(error, RestoreError::WrongDevice { .. }), "{error}");
}

proptest! {
    /// Whatever stands in a snapshot: no panic, and either an error or a device that a reset brings back.
    #[test]
    fn any_state_is_survived(
        status in any::<u32>(),
        features in any::<[u64; 2]>(),
        queue in any::<(u32, bool, u64, u64, u64)>(),
        positions in prop::collection::vec(any::<(u16, u16)>(), 0..4),
        lies in any::<u8>(),
    ) {
        let mut state = running_state();
        if lies & 1 != 0 {
            state.registers.status = status;
        }
        if lies & 2 != 0 {
            state.registers.offered = features[0];
            state.registers.driver_features = features[1];
        }
        if lies & 4 != 0 {
            let (size, ready, descriptors, driver, device) = queue;
            state.registers.queues[1] = QueueRegisters { max_size: 8, size, ready, descriptors, driver, device };
        }
        if lies & 8 != 0 {
            let positions = positions.iter().map(|&(next_available, next_used)| QueuePosition { next_available, next_used });
            state.session = Some(positions.collect());
        }
        let bench = Bench::new();
        if bench.transport.restore(&state).is_ok() {
            bench.transport.wake();
            bench.write(VIRTIO_MMIO_QUEUE_NOTIFY, 1);
            bench.write(VIRTIO_MMIO_STATUS, 0);
            bench.start(OFFERED);
            prop_assert!(bench.device().activation.is_some());
        }
    }
}
