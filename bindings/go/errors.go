package sandbox

// #cgo pkg-config: sandbox
// #include <sandbox.h>
import "C"

import (
	"context"
	"errors"
	"fmt"
)

// Code says what kind of error it is. A Code is an error itself, so that errors.Is finds it: errors.Is(err, ErrTimeout).
type Code int32

// What goes wrong. The numbers are those of the C interface.
const (
	// ErrInvalidSpec: a field has a value that cannot be; Error.Field names it.
	ErrInvalidSpec Code = C.SANDBOX_ERROR_INVALID_SPEC
	// ErrUnsupported: the host or the backend cannot do what was asked for.
	ErrUnsupported Code = C.SANDBOX_ERROR_UNSUPPORTED
	// ErrWrongState: the verb is not allowed in the sandbox's present state; nothing was changed.
	ErrWrongState Code = C.SANDBOX_ERROR_WRONG_STATE
	// ErrNotFound: a file, device, interface or program that was named does not exist.
	ErrNotFound Code = C.SANDBOX_ERROR_NOT_FOUND
	// ErrPermissionDenied: the host denies access.
	ErrPermissionDenied Code = C.SANDBOX_ERROR_PERMISSION_DENIED
	// ErrInUse: a resource is in use by somebody else.
	ErrInUse Code = C.SANDBOX_ERROR_IN_USE
	// ErrAlreadyExists: a name is taken already.
	ErrAlreadyExists Code = C.SANDBOX_ERROR_ALREADY_EXISTS
	// ErrHostExhausted: the host has too little memory, or too few descriptors, processes or addresses.
	ErrHostExhausted Code = C.SANDBOX_ERROR_HOST_EXHAUSTED
	// ErrBadImage: a kernel or image file is not what it should be.
	ErrBadImage Code = C.SANDBOX_ERROR_BAD_IMAGE
	// ErrHostFailure: the host failed in a way that has no code of its own.
	ErrHostFailure Code = C.SANDBOX_ERROR_HOST_FAILURE
	// ErrTimeout: the time given is over.
	ErrTimeout Code = C.SANDBOX_ERROR_TIMEOUT
	// ErrCancelled: the call's context has ended.
	ErrCancelled Code = C.SANDBOX_ERROR_CANCELLED
	// ErrGuestEnded: the guest ended before it was ready.
	ErrGuestEnded Code = C.SANDBOX_ERROR_GUEST_ENDED
	// ErrGuestFault: the guest did what no guest may do, or the host could not run its code.
	ErrGuestFault Code = C.SANDBOX_ERROR_GUEST_FAULT
	// ErrCorrupt: a snapshot is damaged.
	ErrCorrupt Code = C.SANDBOX_ERROR_CORRUPT
	// ErrIncompatible: a snapshot is sound but cannot be used on this host.
	ErrIncompatible Code = C.SANDBOX_ERROR_INCOMPATIBLE
	// ErrWorkerLost: the process that held the sandbox is gone.
	ErrWorkerLost Code = C.SANDBOX_ERROR_WORKER_LOST
	// ErrInvalidArgument: an argument cannot be, such as text that is no UTF-8; Error.Field names it.
	ErrInvalidArgument Code = C.SANDBOX_ERROR_INVALID_ARGUMENT
	// ErrClosed: the object was closed already.
	ErrClosed Code = C.SANDBOX_ERROR_INVALID_HANDLE
	// ErrPanicked: the library caught a panic of its own; the object can only be closed.
	ErrPanicked Code = C.SANDBOX_ERROR_PANICKED
	// ErrForked: the process was forked off the one that loaded the library.
	ErrForked Code = C.SANDBOX_ERROR_FORKED
)

// Error is the error's number in words.
func (code Code) Error() string {
	return fmt.Sprintf("sandbox error %d", int32(code))
}

// Error is what every call of this package fails with.
type Error struct {
	// Code says what kind of error it is.
	Code Code
	// Message is a sentence with all causes, and the remedy where there is one.
	Message string
	// Field is the field of the spec or the options that is at fault, as a dotted path, if the error is about one.
	Field string
	// The context's own error, if it ended the call.
	context error
}

// Error is the message.
func (err *Error) Error() string {
	return err.Message
}

// Is tells whether target is the error's code.
func (err *Error) Is(target error) bool {
	code, isCode := target.(Code)
	return isCode && code == err.Code
}

// Unwrap is the context's own error, if the context ended the call.
func (err *Error) Unwrap() error {
	return err.context
}

// check makes an error of what a C function answered and of the error object that it handed out.
func check(code C.int32_t, object C.sandbox_error_t) error {
	if code == C.SANDBOX_OK {
		return nil
	}
	err := &Error{Code: Code(code), Message: Code(code).Error()}
	if object != 0 {
		err.Message = C.GoString(C.sandbox_error_message(object))
		if field := C.sandbox_error_field(object); field != nil {
			err.Field = C.GoString(field)
		}
		C.sandbox_error_free(object)
	}
	return err
}

// call makes a C call that gives an error object.
func call(work func(object *C.sandbox_error_t) C.int32_t) error {
	var object C.sandbox_error_t
	return check(work(&object), object)
}

// callContext makes a C call that is cancelled when the context ends.
func callContext(ctx context.Context, work func(token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t) error {
	if ctx.Done() == nil {
		return call(func(object *C.sandbox_error_t) C.int32_t { return work(0, object) })
	}
	if ctx.Err() != nil {
		return &Error{Code: ErrCancelled, Message: "the call was cancelled", context: ctx.Err()}
	}
	var token C.sandbox_cancel_t
	err := call(func(object *C.sandbox_error_t) C.int32_t { return C.sandbox_cancel_new(&token, object) })
	if err != nil {
		return err
	}
	over, left := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(left)
		select {
		case <-ctx.Done():
			C.sandbox_cancel_trigger(token)
		case <-over:
		}
	}()
	err = call(func(object *C.sandbox_error_t) C.int32_t { return work(token, object) })
	close(over)
	<-left
	C.sandbox_cancel_free(token)
	var failure *Error
	if errors.As(err, &failure) && failure.Code == ErrCancelled {
		failure.context = ctx.Err()
	}
	return err
}

// take reads a text object of the library's and frees it.
func take(text C.sandbox_text_t) string {
	defer C.sandbox_text_free(text)
	data := C.sandbox_text_data(text)
	if data == nil {
		return ""
	}
	return C.GoStringN(data, C.int(C.sandbox_text_length(text)))
}
