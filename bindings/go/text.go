package sandbox

// #include <stdlib.h>
import "C"

import (
	"encoding/json"
	"strings"
	"unsafe"
)

// texts are C strings that are freed together.
type texts []*C.char

func (all *texts) free() {
	for _, text := range *all {
		C.free(unsafe.Pointer(text))
	}
}

// add copies a Go string, which must not have a NUL in it: C would not see what follows.
func (all *texts) add(name, text string) (*C.char, error) {
	if strings.IndexByte(text, 0) >= 0 {
		return nil, &Error{Code: ErrInvalidArgument, Field: name, Message: name + ": contains a NUL byte"}
	}
	copied := C.CString(text)
	*all = append(*all, copied)
	return copied, nil
}

// document makes a JSON document, or nil of nil.
func (all *texts) document(name string, value interface{}) (*C.char, error) {
	bytes, err := json.Marshal(value)
	if err != nil {
		return nil, &Error{Code: ErrInvalidArgument, Field: name, Message: name + ": " + err.Error()}
	}
	return all.add(name, string(bytes))
}
