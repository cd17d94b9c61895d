package sandbox

// #include <sandbox.h>
import "C"

import (
	"context"
	"io"
	"runtime"
)

// Console reads a guest's console from its beginning, and writes to it. Each has a position of its own; one Console is
// for one reader at a time.
type Console struct {
	box      *Sandbox
	ctx      context.Context
	position C.uint64_t
}

var _ io.ReadWriter = (*Console)(nil)

// Console gives the guest's console. Reads end when ctx does.
func (box *Sandbox) Console(ctx context.Context) *Console {
	return &Console{box: box, ctx: ctx}
}

// Read waits for output, and for io.EOF when the guest has ended. Output that was pushed out, because more was written
// than limits.console_bytes, is skipped.
func (console *Console) Read(bytes []byte) (int, error) {
	var chunk C.sandbox_chunk
	err := console.box.wait(console.ctx, func(handle C.sandbox_t, token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_console_read(handle, console.position, pointer(bytes), C.size_t(len(bytes)), C.SANDBOX_FOREVER, token,
			&chunk, object)
	})
	return advance(&console.position, chunk, len(bytes), err)
}

// advance moves a position behind what was read.
func advance(position *C.uint64_t, chunk C.sandbox_chunk, room int, err error) (int, error) {
	if err != nil {
		return 0, err
	}
	*position = chunk.start + chunk.length
	if chunk.length == 0 && chunk.closed != 0 && room > 0 {
		return 0, io.EOF
	}
	return int(chunk.length), nil
}

// Write sends input to the guest. A guest that does not read has only room for so much: io.ErrShortWrite then.
func (console *Console) Write(bytes []byte) (int, error) {
	var taken C.size_t
	err := console.box.verb(func(handle C.sandbox_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_console_write(handle, pointer(bytes), C.size_t(len(bytes)), &taken, object)
	})
	runtime.KeepAlive(console)
	if err == nil && int(taken) < len(bytes) {
		err = io.ErrShortWrite
	}
	return int(taken), err
}
