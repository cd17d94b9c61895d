package sandbox

// #include <sandbox.h>
import "C"

import (
	"context"
	"encoding/json"
	"runtime"
	"sync/atomic"
)

// kickSignal is the one real-time signal that Go's runtime does not handle itself.
const kickSignal = 34

// Runtime is the backends of this host, each opened when a spec first asks for it. Most programs need one. Sandboxes
// outlive the runtime that they came from.
type Runtime struct {
	handle uint64
}

// RuntimeOption sets up a Runtime.
type RuntimeOption func(options map[string]interface{})

// KVMDevice sets the path of the KVM device, /dev/kvm by default.
func KVMDevice(path string) RuntimeOption {
	return RuntimeField("kvm_device", path)
}

// KickSignal sets the number of the real-time signal that threads of virtual processors are kicked with.
func KickSignal(number int) RuntimeOption {
	return RuntimeField("kick_signal", number)
}

// CPUTimeline has timelines stamped with processor time as well.
func CPUTimeline() RuntimeOption {
	return RuntimeField("cpu_timeline", true)
}

// RuntimeField sets any of the options that sandbox_runtime_open lists.
func RuntimeField(name string, value interface{}) RuntimeOption {
	return func(options map[string]interface{}) { options[name] = value }
}

// Open makes a runtime. It opens nothing yet.
func Open(options ...RuntimeOption) (*Runtime, error) {
	fields := map[string]interface{}{"kick_signal": kickSignal}
	for _, option := range options {
		option(fields)
	}
	var all texts
	defer all.free()
	document, err := all.document("options", fields)
	if err != nil {
		return nil, err
	}
	var handle C.sandbox_runtime_t
	err = call(func(object *C.sandbox_error_t) C.int32_t { return C.sandbox_runtime_open(document, &handle, object) })
	if err != nil {
		return nil, err
	}
	opened := &Runtime{handle: uint64(handle)}
	runtime.SetFinalizer(opened, func(lost *Runtime) { go lost.Close() })
	return opened, nil
}

// Close frees the runtime; sandboxes that were made by it live on. Again does nothing.
func (r *Runtime) Close() error {
	runtime.SetFinalizer(r, nil)
	handle := atomic.SwapUint64(&r.handle, 0)
	return check(C.sandbox_runtime_free(C.sandbox_runtime_t(handle)), 0)
}

func (r *Runtime) c() C.sandbox_runtime_t {
	return C.sandbox_runtime_t(atomic.LoadUint64(&r.handle))
}

// Probe is what a backend found out about this host.
type Probe struct {
	// Backend is its name.
	Backend string `json:"backend"`
	// Usable tells whether sandboxes can be made at all.
	Usable bool `json:"usable"`
	// Reasons tell why not, or what is weaker than it could be.
	Reasons []string `json:"reasons"`
	// Capabilities are what its sandboxes can do here, by name.
	Capabilities []string `json:"capabilities"`
	// Facts are further facts, such as versions.
	Facts map[string]string `json:"facts"`
}

// Probe finds out what this host can do.
func (r *Runtime) Probe(ctx context.Context) ([]Probe, error) {
	var report C.sandbox_text_t
	err := callContext(ctx, func(token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_runtime_probe(r.c(), token, &report, object)
	})
	runtime.KeepAlive(r)
	if err != nil {
		return nil, err
	}
	var probes []Probe
	return probes, json.Unmarshal([]byte(take(report)), &probes)
}

// Create makes the sandbox that spec describes, in state Created: everything is opened, checked and set up, and no
// guest code runs. On failure nothing is left behind.
func (r *Runtime) Create(ctx context.Context, spec *Spec) (*Sandbox, error) {
	var handle C.sandbox_t
	err := callContext(ctx, func(token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_create(r.c(), spec.c(), token, &handle, object)
	})
	runtime.KeepAlive(r)
	runtime.KeepAlive(spec)
	if err != nil {
		return nil, err
	}
	return adopt(handle), nil
}

// Preload reads the kernel and the initial RAM disk that spec names ahead of time, so that the first sandbox made of
// them does not have to.
func (r *Runtime) Preload(ctx context.Context, spec *Spec) error {
	err := callContext(ctx, func(token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_runtime_preload(r.c(), spec.c(), token, object)
	})
	runtime.KeepAlive(r)
	runtime.KeepAlive(spec)
	return err
}
