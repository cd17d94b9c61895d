package sandbox

// #include <sandbox.h>
import "C"

import (
	"context"
	"encoding/json"
	"fmt"
	"runtime"
	"sync/atomic"
	"time"
)

// State is where a sandbox stands.
type State int32

// The states.
const (
	Created  State = C.SANDBOX_STATE_CREATED
	Starting State = C.SANDBOX_STATE_STARTING
	Running  State = C.SANDBOX_STATE_RUNNING
	Paused   State = C.SANDBOX_STATE_PAUSED
	Stopped  State = C.SANDBOX_STATE_STOPPED
	Failed   State = C.SANDBOX_STATE_FAILED
	TornDown State = C.SANDBOX_STATE_TORN_DOWN
)

var stateNames = map[State]string{
	Created: "created", Starting: "starting", Running: "running", Paused: "paused", Stopped: "stopped",
	Failed: "failed", TornDown: "torn down",
}

// String is the state's name.
func (state State) String() string {
	if name, known := stateNames[state]; known {
		return name
	}
	return fmt.Sprintf("state %d", int32(state))
}

// Capability is what only some sandboxes can do, or be held to: a bit.
type Capability uint64

// The capabilities.
const (
	CanPause          Capability = C.SANDBOX_CAPABILITY_PAUSE
	CanSnapshot       Capability = C.SANDBOX_CAPABILITY_SNAPSHOT
	CanSnapshotResume Capability = C.SANDBOX_CAPABILITY_SNAPSHOT_RESUME
	CanRestorePaused  Capability = C.SANDBOX_CAPABILITY_RESTORE_PAUSED
	CanFork           Capability = C.SANDBOX_CAPABILITY_FORK
	CanExec           Capability = C.SANDBOX_CAPABILITY_EXEC
	CanConsoleInput   Capability = C.SANDBOX_CAPABILITY_CONSOLE_INPUT
	CanLimitCPUQuota  Capability = C.SANDBOX_CAPABILITY_LIMIT_CPU_QUOTA
	CanLimitMemory    Capability = C.SANDBOX_CAPABILITY_LIMIT_MEMORY
	CanLimitPids      Capability = C.SANDBOX_CAPABILITY_LIMIT_PIDS
	CanLimitDisk      Capability = C.SANDBOX_CAPABILITY_LIMIT_DISK
	CanLimitNetwork   Capability = C.SANDBOX_CAPABILITY_LIMIT_NETWORK
	CanLimitDeadline  Capability = C.SANDBOX_CAPABILITY_LIMIT_DEADLINE
	CanLimitConsole   Capability = C.SANDBOX_CAPABILITY_LIMIT_CONSOLE
)

// Sandbox is a sandbox. Close frees it; what a program forgets to close is closed when it is no longer reachable.
type Sandbox struct {
	handle uint64
}

// adopt makes a handle the sandbox of a Go object.
func adopt(handle C.sandbox_t) *Sandbox {
	box := &Sandbox{handle: uint64(handle)}
	// Closing waits for the kernel, which other finalizers should not have to.
	runtime.SetFinalizer(box, func(lost *Sandbox) { go lost.Close() })
	return box
}

func (box *Sandbox) c() C.sandbox_t {
	return C.sandbox_t(atomic.LoadUint64(&box.handle))
}

// verb makes a call that does not block.
func (box *Sandbox) verb(work func(handle C.sandbox_t, object *C.sandbox_error_t) C.int32_t) error {
	err := call(func(object *C.sandbox_error_t) C.int32_t { return work(box.c(), object) })
	runtime.KeepAlive(box)
	return err
}

// wait makes a call that may block.
func (box *Sandbox) wait(
	ctx context.Context,
	work func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t,
) error {
	err := callContext(ctx, func(token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return work(box.c(), token, object)
	})
	runtime.KeepAlive(box)
	return err
}

// text makes a call that hands out a text.
func (box *Sandbox) text(
	work func(handle C.sandbox_t, text *C.sandbox_text_t, object *C.sandbox_error_t) C.int32_t,
) (string, error) {
	var text C.sandbox_text_t
	err := box.verb(func(handle C.sandbox_t, object *C.sandbox_error_t) C.int32_t { return work(handle, &text, object) })
	if err != nil {
		return "", err
	}
	return take(text), nil
}

// Close tears the sandbox down if that was not done, and returns when nothing of it is left. Again does nothing.
func (box *Sandbox) Close() error {
	runtime.SetFinalizer(box, nil)
	return check(C.sandbox_free(C.sandbox_t(atomic.SwapUint64(&box.handle, 0))), 0)
}

// ID is its name: the spec's, or one that was made up.
func (box *Sandbox) ID() (string, error) {
	return box.text(func(handle C.sandbox_t, text *C.sandbox_text_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_id(handle, text, object)
	})
}

// State is where it stands.
func (box *Sandbox) State() (State, error) {
	var state C.int32_t
	err := box.verb(func(handle C.sandbox_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_state(handle, &state, object)
	})
	return State(state), err
}

// Capabilities is what this sandbox can do, or be held to.
func (box *Sandbox) Capabilities() (Capability, error) {
	var capabilities C.uint64_t
	err := box.verb(func(handle C.sandbox_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_capabilities(handle, &capabilities, object)
	})
	return Capability(capabilities), err
}

// Start runs the guest: Created → Running. One that is cancelled goes on behind; so do Pause and Resume.
func (box *Sandbox) Start(ctx context.Context) error {
	return box.wait(ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_start(handle, token, object)
	})
}

// WaitReady waits for the spec's readiness check. ErrGuestEnded if the guest ended first.
func (box *Sandbox) WaitReady(ctx context.Context) error {
	return box.wait(ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_wait_ready(handle, C.SANDBOX_FOREVER, token, object)
	})
}

// Pause holds the guest: Running → Paused. When it returns, no guest instruction executes until Resume.
func (box *Sandbox) Pause(ctx context.Context) error {
	return box.wait(ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_pause(handle, token, object)
	})
}

// Resume goes on: Paused → Running.
func (box *Sandbox) Resume(ctx context.Context) error {
	return box.wait(ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_resume(handle, token, object)
	})
}

// Wait waits for the guest's end. The exit is kept for whoever asks, however late and however often.
func (box *Sandbox) Wait(ctx context.Context) (Exit, error) {
	var exit C.sandbox_exit
	err := box.wait(ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_wait(handle, C.SANDBOX_FOREVER, token, &exit, object)
	})
	return exitOf(exit), err
}

// Stop ends the guest: asks it to where it can be asked, waits up to grace, then kills it.
func (box *Sandbox) Stop(ctx context.Context, grace time.Duration) (Exit, error) {
	var exit C.sandbox_exit
	milliseconds := C.int64_t(0)
	if grace > 0 {
		milliseconds = C.int64_t(grace.Milliseconds())
	}
	err := box.wait(ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_stop(handle, milliseconds, token, &exit, object)
	})
	return exitOf(exit), err
}

// Teardown gives everything back, and waits until nothing is left or ctx ends; the teardown goes on then. Exit,
// timeline and console can still be read.
func (box *Sandbox) Teardown(ctx context.Context) error {
	err := box.verb(func(handle C.sandbox_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_teardown(handle, object)
	})
	if err != nil {
		return err
	}
	return box.wait(ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_wait_torn_down(handle, C.SANDBOX_FOREVER, token, object)
	})
}

// ExitKind is a way in which a guest ends.
type ExitKind int32

// The ways to end.
const (
	ExitOther       ExitKind = C.SANDBOX_EXIT_OTHER
	ExitCode        ExitKind = C.SANDBOX_EXIT_CODE
	ExitSignal      ExitKind = C.SANDBOX_EXIT_SIGNAL
	ExitPowerOff    ExitKind = C.SANDBOX_EXIT_POWER_OFF
	ExitReset       ExitKind = C.SANDBOX_EXIT_RESET
	ExitTripleFault ExitKind = C.SANDBOX_EXIT_TRIPLE_FAULT
	ExitGuestFault  ExitKind = C.SANDBOX_EXIT_GUEST_FAULT
	ExitOutOfMemory ExitKind = C.SANDBOX_EXIT_OUT_OF_MEMORY
	ExitDeadline    ExitKind = C.SANDBOX_EXIT_DEADLINE
	ExitKilled      ExitKind = C.SANDBOX_EXIT_KILLED
	ExitLostWorker  ExitKind = C.SANDBOX_EXIT_LOST_WORKER
)

var exitNames = map[ExitKind]string{
	ExitOther: "other", ExitCode: "exit code", ExitSignal: "signal", ExitPowerOff: "power-off", ExitReset: "reset",
	ExitTripleFault: "triple fault", ExitGuestFault: "guest fault", ExitOutOfMemory: "out of memory",
	ExitDeadline: "deadline passed", ExitKilled: "killed", ExitLostWorker: "worker lost",
}

// Exit is how a guest ended.
type Exit struct {
	// Kind is the way in which it ended.
	Kind ExitKind
	// Value is the exit code or the signal's number.
	Value int
}

func exitOf(exit C.sandbox_exit) Exit {
	return Exit{Kind: ExitKind(exit.kind), Value: int(exit.value)}
}

// Success tells whether the guest ended by itself and said that all is well.
func (exit Exit) Success() bool {
	return exit.Kind == ExitPowerOff || exit == Exit{Kind: ExitCode}
}

// String says it in words.
func (exit Exit) String() string {
	if exit.Kind == ExitCode || exit.Kind == ExitSignal {
		return fmt.Sprintf("%s %d", exitNames[exit.Kind], exit.Value)
	}
	return exitNames[exit.Kind]
}

// ExitReport is all that is known of the guest's end, as JSON: registers and the last lines of the console where it was
// a fault. ErrTimeout if it has not ended.
func (box *Sandbox) ExitReport() (json.RawMessage, error) {
	text, err := box.text(func(handle C.sandbox_t, text *C.sandbox_text_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_exit_report(handle, text, object)
	})
	return json.RawMessage(text), err
}

// TimelineEntry is a phase that was reached.
type TimelineEntry struct {
	// Phase is its name.
	Phase string
	// Real is the time since Create or Restore was called.
	Real time.Duration
	// CPU is the process's processor time since then; -1 if the runtime was opened without CPUTimeline.
	CPU time.Duration
}

// Timeline is the phases reached, in order of time.
func (box *Sandbox) Timeline() ([]TimelineEntry, error) {
	var raw [C.SANDBOX_TIMELINE_CAPACITY]C.sandbox_timeline_entry
	var count C.size_t
	err := box.verb(func(handle C.sandbox_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_timeline_read(handle, &raw[0], C.SANDBOX_TIMELINE_CAPACITY, &count, object)
	})
	if err != nil {
		return nil, err
	}
	entries := make([]TimelineEntry, 0, int(count))
	for index := 0; index < int(count) && index < len(raw); index++ {
		entry := TimelineEntry{Phase: C.GoString(C.sandbox_phase_name(raw[index].phase)), Real: time.Duration(raw[index].real), CPU: -1}
		if raw[index].cpu != C.SANDBOX_UNKNOWN {
			entry.CPU = time.Duration(raw[index].cpu)
		}
		entries = append(entries, entry)
	}
	return entries, nil
}

// Version is the SDK's version.
func Version() string {
	return C.GoString(C.sandbox_version())
}

// HasFeature tells whether the library was built with a feature; sandbox_has_feature lists them.
func HasFeature(name string) bool {
	var all texts
	defer all.free()
	text, err := all.add("name", name)
	return err == nil && C.sandbox_has_feature(text) == 1
}
