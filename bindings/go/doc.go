// Package sandbox runs code that is not trusted: one interface before KVM micro-VMs and OCI runtimes.
//
// It is built on the C library libsandbox, which `cargo xtask install` installs and pkg-config finds; it needs no Rust
// toolchain. What each verb does, and in which states it is allowed, is what the C header says, sandbox.h.
//
// A sandbox is described once, by a Spec, and made by a Runtime:
//
//	runtime, err := sandbox.Open()
//	spec, err := sandbox.NewSpec(sandbox.Unikernel("web.elf"), sandbox.Memory(16<<20), sandbox.Ready("boot_port"))
//	box, err := runtime.Create(ctx, spec)
//	defer box.Close()
//	err = box.Start(ctx)
//	err = box.WaitReady(ctx)
//
// # Contexts
//
// Calls that may block take a context. When it ends, the call returns an error that is both the context's own and
// ErrCancelled. A wait is given up then; what a call had begun to make is given back.
//
// # Errors
//
// Every error is an *Error, with a code that errors.Is compares: errors.Is(err, sandbox.ErrWrongState).
//
// # Concurrency
//
// All methods may be called from any goroutine at any time. A call that waits holds an operating-system thread while it
// does. Close may be called while other calls are under way: they return as they do when a sandbox is torn down.
//
// # Signals
//
// The library kicks its own threads by one real-time signal. Go's runtime handles all of them but the first, number 34,
// so this is the one that Open chooses.
package sandbox
