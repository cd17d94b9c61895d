package sandbox

// #include <stdlib.h>
// #include <sandbox.h>
import "C"

import (
	"fmt"
	"runtime"
	"sync/atomic"
	"unsafe"
)

// Spec is a sandbox's description. It can be used for any number of sandboxes.
type Spec struct {
	handle uint64
}

// SpecOption sets a part of a spec.
type SpecOption func(spec *Spec) error

// NewSpec makes a spec. A mistake is told here, with the field's name.
func NewSpec(options ...SpecOption) (*Spec, error) {
	var handle C.sandbox_spec_t
	err := call(func(object *C.sandbox_error_t) C.int32_t { return C.sandbox_spec_new(&handle, object) })
	if err != nil {
		return nil, err
	}
	spec := ownSpec(handle)
	for _, option := range options {
		if err := option(spec); err != nil {
			spec.Close()
			return nil, err
		}
	}
	err = call(func(object *C.sandbox_error_t) C.int32_t { return C.sandbox_spec_check(spec.c(), object) })
	runtime.KeepAlive(spec)
	if err != nil {
		spec.Close()
		return nil, err
	}
	return spec, nil
}

// ParseSpec reads a spec from a JSON document.
func ParseSpec(document []byte) (*Spec, error) {
	bytes := C.CBytes(document)
	defer C.free(bytes)
	var handle C.sandbox_spec_t
	err := call(func(object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_spec_from_json((*C.char)(bytes), C.size_t(len(document)), &handle, object)
	})
	if err != nil {
		return nil, err
	}
	return ownSpec(handle), nil
}

func ownSpec(handle C.sandbox_spec_t) *Spec {
	spec := &Spec{handle: uint64(handle)}
	runtime.SetFinalizer(spec, (*Spec).Close)
	return spec
}

// Close frees the spec; sandboxes that were made by it are not affected. Again does nothing.
func (spec *Spec) Close() error {
	runtime.SetFinalizer(spec, nil)
	return check(C.sandbox_spec_free(C.sandbox_spec_t(atomic.SwapUint64(&spec.handle, 0))), 0)
}

func (spec *Spec) c() C.sandbox_spec_t {
	return C.sandbox_spec_t(atomic.LoadUint64(&spec.handle))
}

// JSON is the whole document, defaults included.
func (spec *Spec) JSON() ([]byte, error) {
	var text C.sandbox_text_t
	err := call(func(object *C.sandbox_error_t) C.int32_t { return C.sandbox_spec_to_json(spec.c(), &text, object) })
	runtime.KeepAlive(spec)
	if err != nil {
		return nil, err
	}
	return []byte(take(text)), nil
}

// Set sets the field at a dotted path, such as disks[0].path, to a value that encoding/json can encode.
func (spec *Spec) Set(path string, value interface{}) error {
	var all texts
	defer all.free()
	place, err := all.add("path", path)
	if err != nil {
		return err
	}
	document, err := all.document("value", value)
	if err != nil {
		return err
	}
	err = call(func(object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_spec_set_json(spec.c(), place, document, object)
	})
	runtime.KeepAlive(spec)
	return err
}

// Field sets any field at its dotted path; see Spec.Set.
func Field(path string, value interface{}) SpecOption {
	return func(spec *Spec) error { return spec.Set(path, value) }
}

// Linux has a Linux kernel booted with this command line.
func Linux(kernel, cmdline string) SpecOption {
	return Field("guest.linux", map[string]string{"kernel": kernel, "cmdline": cmdline})
}

// Initrd gives the Linux kernel its initial RAM disk.
func Initrd(path string) SpecOption {
	return Field("guest.linux.initrd", path)
}

// Unikernel has a unikernel booted with these arguments. Its family is recognised; Field("guest.unikernel.family", …)
// says it.
func Unikernel(image string, args ...string) SpecOption {
	return Field("guest.unikernel", map[string]interface{}{"image": image, "args": append([]string{}, args...)})
}

// Container has a program run in a container by an OCI runtime (runc, crun, runsc, or a path), with the root file system
// in a folder.
func Container(runtime, rootfs string, args ...string) SpecOption {
	return Field("guest.container", map[string]interface{}{
		"runtime": runtime,
		"rootfs":  rootfs,
		"process": map[string]interface{}{"args": append([]string{}, args...)},
	})
}

// ID names the sandbox.
func ID(id string) SpecOption {
	return Field("id", id)
}

// Memory sets the guest's memory, in bytes.
func Memory(bytes uint64) SpecOption {
	return Field("memory", bytes)
}

// VCPUs sets the number of virtual processors.
func VCPUs(count int) SpecOption {
	return Field("vcpus", count)
}

// Ready sets when the sandbox counts as ready: "boot_port", "started", or a map such as
// map[string]any{"console": map[string]any{"marker": "login:"}}.
func Ready(check interface{}) SpecOption {
	return Field("ready", check)
}

// InProcess has the virtual machine monitor live in this process: for guests that are trusted.
func InProcess() SpecOption {
	return Field("isolation", "in_process")
}

// Disk adds the disk of this number, counted from 0: a raw image file.
func Disk(number int, id, path string, readOnly bool) SpecOption {
	disk := map[string]interface{}{"id": id, "path": path, "read_only": readOnly}
	return Field(fmt.Sprintf("disks[%d]", number), disk)
}

// Network adds the network card of this number, counted from 0, with the fields that the spec's schema lists.
func Network(number int, fields map[string]interface{}) SpecOption {
	return Field(fmt.Sprintf("networks[%d]", number), fields)
}

// pointer is nil for an empty slice, whose first element cannot be pointed to.
func pointer(bytes []byte) *C.uint8_t {
	if len(bytes) == 0 {
		return nil
	}
	return (*C.uint8_t)(unsafe.Pointer(&bytes[0]))
}
