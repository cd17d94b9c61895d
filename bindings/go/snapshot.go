package sandbox

// #include <sandbox.h>
import "C"

import (
	"context"
	"encoding/json"
	"runtime"
)

// SnapshotOption says how a snapshot is written.
type SnapshotOption func(options map[string]interface{})

// StopAfter has the sandbox end when its snapshot is written.
func StopAfter() SnapshotOption {
	return func(options map[string]interface{}) { options["after"] = "stop" }
}

// ChangesSince stores only what changed since the snapshot in the folder base.
func ChangesSince(base string) SnapshotOption {
	return func(options map[string]interface{}) { options["base"] = base }
}

// WithDigest stores the digest that VerifyFull compares.
func WithDigest() SnapshotOption {
	return func(options map[string]interface{}) { options["digest"] = true }
}

// Snapshot writes a snapshot into the new folder directory and returns its manifest, which is JSON. A failure leaves no
// folder and the sandbox as it was.
func (box *Sandbox) Snapshot(ctx context.Context, directory string, options ...SnapshotOption) (json.RawMessage, error) {
	fields := map[string]interface{}{}
	for _, option := range options {
		option(fields)
	}
	var all texts
	defer all.free()
	folder, err := all.add("directory", directory)
	if err != nil {
		return nil, err
	}
	document, err := all.document("options", fields)
	if err != nil {
		return nil, err
	}
	var manifest C.sandbox_text_t
	err = box.wait(ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_snapshot(handle, folder, document, token, &manifest, object)
	})
	if err != nil {
		return nil, err
	}
	return json.RawMessage(take(manifest)), nil
}

// RestoreOption says how a snapshot is brought back, or a clone is made.
type RestoreOption func(options map[string]interface{})

// StartAtOnce runs the sandbox instead of returning it paused.
func StartAtOnce() RestoreOption {
	return RestoreField("start", true)
}

// MemoryEager has all memory read before the guest runs.
func MemoryEager() RestoreOption {
	return RestoreField("memory", "eager")
}

// MemoryUffd has memory brought in by userfaultfd, the recorded working set first.
func MemoryUffd() RestoreOption {
	return RestoreField("memory", "uffd")
}

// VerifyFull has the memory's digest verified, which reads all of it.
func VerifyFull() RestoreOption {
	return RestoreField("verify", "full")
}

// Overrides replaces host resources: disks and networks by id, vsock_path, limits.
func Overrides(overrides map[string]interface{}) RestoreOption {
	return RestoreField("overrides", overrides)
}

// RestoreField sets any of the options that sandbox_restore lists.
func RestoreField(name string, value interface{}) RestoreOption {
	return func(options map[string]interface{}) { options[name] = value }
}

func restoreFields(options []RestoreOption) map[string]interface{} {
	fields := map[string]interface{}{}
	for _, option := range options {
		option(fields)
	}
	return fields
}

// Given is what was done so that a clone does not repeat its siblings, for one aspect.
type Given int32

// From nothing to all that can be known.
const (
	GivenNothing        Given = C.SANDBOX_GIVEN_NOTHING
	GivenApplied        Given = C.SANDBOX_GIVEN_APPLIED
	GivenNotified       Given = C.SANDBOX_GIVEN_NOTIFIED
	GivenGuestConfirmed Given = C.SANDBOX_GIVEN_GUEST_CONFIRMED
)

// Uniqueness is what a restored or forked sandbox can rely on being its own.
type Uniqueness struct {
	// Entropy is random numbers.
	Entropy Given
	// IDs is machine and instance identifiers.
	IDs Given
	// Clock is wall-clock time.
	Clock Given
	// Address is link and network addresses.
	Address Given
}

func uniquenessOf(raw C.sandbox_uniqueness) Uniqueness {
	return Uniqueness{Entropy: Given(raw.entropy), IDs: Given(raw.ids), Clock: Given(raw.clock), Address: Given(raw.address)}
}

// Restore makes a sandbox from the snapshot in a folder, paused unless the options say StartAtOnce.
func (r *Runtime) Restore(ctx context.Context, directory string, options ...RestoreOption) (*Sandbox, error) {
	var all texts
	defer all.free()
	folder, err := all.add("directory", directory)
	if err != nil {
		return nil, err
	}
	document, err := all.document("options", restoreFields(options))
	if err != nil {
		return nil, err
	}
	var handle C.sandbox_t
	err = callContext(ctx, func(token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_restore(r.c(), folder, document, token, &handle, nil, object)
	})
	runtime.KeepAlive(r)
	if err != nil {
		return nil, err
	}
	return adopt(handle), nil
}

// Fork makes count clones in memory, each with the same options. Either all are made or none.
func (box *Sandbox) Fork(ctx context.Context, count int, options ...RestoreOption) ([]*Sandbox, error) {
	if count < 1 || count > 1<<16 {
		return nil, &Error{Code: ErrInvalidArgument, Field: "count", Message: "count: give 1 to 65536"}
	}
	var all texts
	defer all.free()
	document, err := all.document("options", restoreFields(options))
	if err != nil {
		return nil, err
	}
	handles := make([]C.sandbox_t, count)
	err = box.wait(ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_fork(handle, C.uint32_t(count), document, token, &handles[0], nil, object)
	})
	if err != nil {
		return nil, err
	}
	clones := make([]*Sandbox, count)
	for index, handle := range handles {
		clones[index] = adopt(handle)
	}
	return clones, nil
}

// Uniqueness is what a restored or forked sandbox can rely on being its own by now. ErrUnsupported for one that was
// created.
func (box *Sandbox) Uniqueness() (Uniqueness, error) {
	var raw C.sandbox_uniqueness
	err := box.verb(func(handle C.sandbox_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_uniqueness_read(handle, &raw, object)
	})
	return uniquenessOf(raw), err
}

// WaitConfirmed waits until the guest has confirmed what it was told when it was restored or forked.
func (box *Sandbox) WaitConfirmed(ctx context.Context) (Uniqueness, error) {
	var raw C.sandbox_uniqueness
	err := box.wait(ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_wait_confirmed(handle, C.SANDBOX_FOREVER, token, &raw, object)
	})
	return uniquenessOf(raw), err
}
