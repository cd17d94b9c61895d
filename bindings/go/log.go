package sandbox

// #include <sandbox.h>
import "C"

import "context"

// LogLevel is how much the library logs.
type LogLevel int32

// From nothing to everything.
const (
	LogOff   LogLevel = C.SANDBOX_LOG_OFF
	LogError LogLevel = C.SANDBOX_LOG_ERROR
	LogWarn  LogLevel = C.SANDBOX_LOG_WARN
	LogInfo  LogLevel = C.SANDBOX_LOG_INFO
	LogDebug LogLevel = C.SANDBOX_LOG_DEBUG
	LogTrace LogLevel = C.SANDBOX_LOG_TRACE
)

// SetLogLevel has the library keep log records of this level and above for NextLog. Off at first.
func SetLogLevel(level LogLevel) error {
	return call(func(object *C.sandbox_error_t) C.int32_t { return C.sandbox_log_level(C.int32_t(level), object) })
}

// NextLog takes the oldest log record, a line of text, waiting for one.
func NextLog(ctx context.Context) (string, error) {
	var record C.sandbox_text_t
	err := callContext(ctx, func(token C.sandbox_cancel_t, object *C.sandbox_error_t) C.int32_t {
		return C.sandbox_log_next(C.SANDBOX_FOREVER, token, &record, object)
	})
	if err != nil {
		return "", err
	}
	return take(record), nil
}
