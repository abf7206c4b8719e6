package keys

import (
	"errors"
	"fmt"
	"time"
)

// Sentinel errors. Each has one stable code and one HTTP status in
// gateway/api; the client maps a response back to the same sentinel, so
// errors.Is works across the network.
var (
	ErrMalformed       = errors.New("malformed request")         // not the JSON, base64 or form asked for
	ErrInvalid         = errors.New("invalid argument")          // well-formed, but no meaningful value
	ErrUnauthenticated = errors.New("not authenticated")         // no, bad or expired credentials
	ErrForbidden       = errors.New("not allowed")               // policy says no
	ErrKeyNotFound     = errors.New("no such key")               // or one that the caller may not see
	ErrVersionNotFound = errors.New("no such key version")       //
	ErrNotFound        = errors.New("not found")                 // anything else that is not there
	ErrKeyExists       = errors.New("key exists")                //
	ErrKeyRetired      = errors.New("key name was used before")  // tombstone: numbers never come back
	ErrConflict        = errors.New("changed meanwhile")         // compare-and-swap on epoch lost
	ErrRotationRunning = errors.New("a rotation is running")     // one at a time per key
	ErrVersionState    = errors.New("version state forbids it")  // suspended, compromised, archived, destroyed ...
	ErrNoActiveVersion = errors.New("key has no active version") //
	ErrWrongPurpose    = errors.New("wrong purpose or algorithm for this key")
	ErrDecrypt         = errors.New("decryption failed") // tampered, wrong aad, another key's: not told apart
	ErrTooLarge        = errors.New("payload too large")
	ErrMediaType       = errors.New("unsupported media type")
	ErrMethod          = errors.New("method not allowed")
	ErrRateLimited     = errors.New("rate limit exceeded")
	ErrOverloaded      = errors.New("overloaded")            // queue full or in-flight limit
	ErrTimeout         = errors.New("deadline exceeded")     // the HSM did not answer in time
	ErrHSM             = errors.New("HSM unavailable")       // device, login or module failure
	ErrUnsupported     = errors.New("not supported by HSM")  // capability missing on this token
	ErrAudit           = errors.New("audit log unavailable") // fail closed
	ErrStore           = errors.New("store unavailable")
	ErrStale           = errors.New("key state is stale")      // snapshot older than max_staleness
	ErrTampered        = errors.New("stored data was altered") // a row's MAC is wrong: nothing is done with it
	ErrNotSubscribed   = errors.New("not subscribed to this key")
	ErrInUse           = errors.New("still in use") // destruction is refused; it can be forced
	ErrInternal        = errors.New("internal error")
)

// Error is a sentinel with a Detail that is safe and meant for the caller:
// what was wrong and what to do. Every other error text stays inside.
type Error struct {
	Kind   error  // one of the sentinels above
	Detail string // one sentence, no secrets
	// RetryAfter is when trying again may help; 0: nobody knows.
	RetryAfter time.Duration
}

// Errorf makes an *Error. The text goes to the caller: put no secrets and
// no internal error texts into it.
func Errorf(kind error, format string, args ...any) *Error {
	return &Error{Kind: kind, Detail: fmt.Sprintf(format, args...)}
}

func (e *Error) Error() string { return e.Detail }

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.Kind }
