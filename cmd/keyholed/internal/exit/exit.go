// Package exit holds the exit statuses of keyholed, so that a supervisor can
// tell what a restart may mend from what it cannot.
package exit

import "errors"

// The statuses. They are documented in `keyholed serve --help` and
// docs/operations.md, and do not change.
const (
	OK      = 0
	Failure = 1 // anything else
	Config  = 2 // wrong flags or configuration; a restart does not help
	HSM     = 3 // module, token or device cannot be used
	PIN     = 4 // the token refused the PIN; a restart could lock it: never do so by itself
	Store   = 5 // the database cannot be used
	Audit   = 6 // the audit log cannot be written
	Listen  = 7 // an address cannot be listened on
)

// Help says the same to operators.
const Help = `Exit status:
  0  stopped when asked to
  1  any other failure
  2  wrong flags or configuration (a restart does not help)
  3  the HSM cannot be used: module, token or device
  4  the token refused the PIN (restarting could lock it: RestartPreventExitStatus=4)
  5  the key database cannot be used
  6  the audit log cannot be written
  7  an address cannot be listened on`

// Error is an error with the status that it ends the process with.
type Error struct {
	Status int
	Err    error
	Hint   string // what to do about it; may be empty
}

// With gives err a status and a hint; nil stays nil.
func With(status int, hint string, err error) error {
	if err == nil {
		return nil
	}
	return &Error{Status: status, Err: err, Hint: hint}
}

func (e *Error) Error() string { return e.Err.Error() }

// Unwrap returns the error without its status.
func (e *Error) Unwrap() error { return e.Err }

// Status returns the status of err: OK for nil, Failure if it has none.
func Status(err error) int {
	if err == nil {
		return OK
	}
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Status
	}
	return Failure
}

// Hint returns the hint of err, or "".
func Hint(err error) string {
	if e, ok := errors.AsType[*Error](err); ok {
		return e.Hint
	}
	return ""
}
