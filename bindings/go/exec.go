package sandbox

// #include <stdlib.h>
// #include <sandbox.h>
import "C"

import (
	"context"
	"io"
	"runtime"
	"sync/atomic"
	"unsafe"
)

// Exec is a command that was started in a sandbox.
type Exec struct {
	handle   uint64
	ctx      context.Context
	position C.uint64_t
}

var _ io.ReadWriter = (*Exec)(nil)

// Exec starts a command inside a running sandbox; the first argument names the program, environment is NAME=value.
// Needs CanExec. Reads of its output end when ctx does.
func (box *Sandbox) Exec(ctx context.Context, arguments, environment []string) (*Exec, error) {
	var all texts
	defer all.free()
	argv, err := all.array("arguments", arguments)
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(argv))
	envp, err := all.array("environment", environment)
	if err != nil {
		return nil, err
	}
	defer C.free(unsafe.Pointer(envp))
	var handle C.sandbox_exec_t
	err = box.wait(ctx, func(sandbox C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_exec(sandbox, argv, envp, token, &handle, object)
	})
	if err != nil {
		return nil, err
	}
	exec := &Exec{handle: uint64(handle), ctx: ctx}
	runtime.SetFinalizer(exec, (*Exec).Close)
	return exec, nil
}

// array makes a NULL-terminated array of C strings, which the caller frees.
func (all *texts) array(name string, list []string) (**C.char, error) {
	memory := (**C.char)(C.calloc(C.size_t(len(list)+1), C.size_t(unsafe.Sizeof((*C.char)(nil)))))
	entries := unsafe.Slice(memory, len(list)+1)
	for index, text := range list {
		copied, err := all.add(name, text)
		if err != nil {
			C.free(unsafe.Pointer(memory))
			return nil, err
		}
		entries[index] = copied
	}
	return memory, nil
}

func (exec *Exec) c() C.sandbox_exec_t {
	return C.sandbox_exec_t(atomic.LoadUint64(&exec.handle))
}

// Read waits for output, and for io.EOF when there is no more.
func (exec *Exec) Read(bytes []byte) (int, error) {
	var chunk C.sandbox_chunk
	err := callContext(exec.ctx, func(token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_exec_read(exec.c(), exec.position, pointer(bytes), C.size_t(len(bytes)), C.SANDBOX_FOREVER, token,
			&chunk, object)
	})
	runtime.KeepAlive(exec)
	return advance(&exec.position, chunk, len(bytes), err)
}

// Write sends input to the command. io.ErrShortWrite if it has no room for all.
func (exec *Exec) Write(bytes []byte) (int, error) {
	var taken C.size_t
	err := call(func(object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_exec_write(exec.c(), pointer(bytes), C.size_t(len(bytes)), &taken, object)
	})
	runtime.KeepAlive(exec)
	if err == nil && int(taken) < len(bytes) {
		err = io.ErrShortWrite
	}
	return int(taken), err
}

// Wait waits for the command's end.
func (exec *Exec) Wait(ctx context.Context) (Exit, error) {
	var exit C.sandbox_exit
	err := callContext(ctx, func(token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_exec_wait(exec.c(), C.SANDBOX_FOREVER, token, &exit, object)
	})
	runtime.KeepAlive(exec)
	return exitOf(exit), err
}

// Close frees the session. The command goes on, and ends with its sandbox at the latest. Again does nothing.
func (exec *Exec) Close() error {
	runtime.SetFinalizer(exec, nil)
	return check(C.sandbox_exec_free(C.sandbox_exec_t(atomic.SwapUint64(&exec.handle, 0))), 0)
}
