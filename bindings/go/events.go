package sandbox

// #include <sandbox.h>
import "C"

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
)

// EventKind is something that happens by itself: a bit.
type EventKind uint32

// The events.
const (
	// EventReady: the readiness check has passed.
	EventReady EventKind = C.SANDBOX_EVENT_READY
	// EventExit: the guest has ended.
	EventExit EventKind = C.SANDBOX_EVENT_EXIT
	// EventConsole: there is console output, or its end, since the last such event was taken.
	EventConsole EventKind = C.SANDBOX_EVENT_CONSOLE
	// EventTornDown: the teardown that was asked for is over.
	EventTornDown EventKind = C.SANDBOX_EVENT_TORN_DOWN
)

// Event is something that happened to a sandbox.
type Event struct {
	// Kind is what happened.
	Kind EventKind
	// Sandbox is whom it happened to.
	Sandbox *Sandbox
}

// Events is a queue of events, of any number of sandboxes.
type Events struct {
	handle  uint64
	mutex   sync.Mutex
	watched map[C.sandbox_t]*Sandbox
}

// NewEvents makes a queue.
func NewEvents() (*Events, error) {
	var handle C.sandbox_events_t
	err := call(func(object *C.sandbox_error_t) C.int32_t { return C.sandbox_events_open(&handle, object) })
	if err != nil {
		return nil, err
	}
	events := &Events{handle: uint64(handle), watched: map[C.sandbox_t]*Sandbox{}}
	runtime.SetFinalizer(events, (*Events).Close)
	return events, nil
}

func (events *Events) c() C.sandbox_events_t {
	return C.sandbox_events_t(atomic.LoadUint64(&events.handle))
}

// Watch has events of a sandbox put into the queue from now on; kinds is a sum. What has happened already is told at
// once. The queue keeps the sandbox reachable until Unwatch or Close.
func (events *Events) Watch(box *Sandbox, kinds EventKind) error {
	handle := box.c()
	events.mutex.Lock()
	defer events.mutex.Unlock()
	err := call(func(object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_events_watch(events.c(), handle, C.uint32_t(kinds), 0, object)
	})
	runtime.KeepAlive(events)
	if err == nil {
		events.watched[handle] = box
	}
	return err
}

// Unwatch ends a watch.
func (events *Events) Unwatch(box *Sandbox) error {
	events.mutex.Lock()
	defer events.mutex.Unlock()
	for handle, watched := range events.watched {
		if watched == box {
			delete(events.watched, handle)
		}
	}
	err := call(func(object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_events_unwatch(events.c(), box.c(), object)
	})
	runtime.KeepAlive(events)
	runtime.KeepAlive(box)
	return err
}

// Next waits for the next event.
func (events *Events) Next(ctx context.Context) (Event, error) {
	var raw C.sandbox_event
	err := callContext(ctx, func(token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_events_next(events.c(), C.SANDBOX_FOREVER, token, &raw, object)
	})
	runtime.KeepAlive(events)
	if err != nil {
		return Event{}, err
	}
	events.mutex.Lock()
	defer events.mutex.Unlock()
	return Event{Kind: EventKind(raw.kind), Sandbox: events.watched[raw.sandbox]}, nil
}

// Close frees the queue. Again does nothing.
func (events *Events) Close() error {
	runtime.SetFinalizer(events, nil)
	return check(C.sandbox_events_free(C.sandbox_events_t(atomic.SwapUint64(&events.handle, 0))), 0)
}
