// Package fault judges what PKCS#11 functions return: Of is the one place that
// says whose fault a CKR code is and what mends it, and Error carries the code
// together with the sentinel of package keys that callers see.
package fault

import (
	"context"
	"errors"
	"fmt"
	"strings"
	"time"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
)

// Error is a failed PKCS#11 call. It unwraps to a sentinel of package keys.
// Its text is for logs, not for callers.
type Error struct {
	Op   string // "Sign", "DecryptInit", ...
	Code uint   // CKR_*
	kind error
}

func (e *Error) Error() string {
	return fmt.Sprintf("C_%s: %s: %v", e.Op, CodeName(e.Code), e.kind)
}

// Unwrap returns the sentinel.
func (e *Error) Unwrap() error { return e.kind }

// Conditions that an operator must mend. Open returns them wrapped, with what
// to do in the text; all are keys.ErrHSM.
var (
	ErrNoModule       = fmt.Errorf("the PKCS#11 module cannot be loaded: %w", keys.ErrHSM)
	ErrNoToken        = fmt.Errorf("no such token: %w", keys.ErrHSM)
	ErrNotInitialised = fmt.Errorf("the token is not initialised: %w", keys.ErrHSM)
	ErrPIN            = fmt.Errorf("the token does not take the PIN: %w", keys.ErrHSM)
	ErrTokenInUse     = fmt.Errorf("the token is open already: %w", keys.ErrHSM)
)

// ErrPINHeld is ErrPIN where no PIN was given, because the token says that it is
// locked or that one more wrong one would lock it. It can end by itself.
var ErrPINHeld = fmt.Errorf("no login is tried: %w", ErrPIN)

// ErrIdentity says that an object is not the key that was asked for.
var ErrIdentity = fmt.Errorf("not the key that was asked for: %w", keys.ErrHSM)

// ErrOutdated says that the token was logged in to anew while a call ran.
var ErrOutdated = fmt.Errorf("the token was reset during the call: %w", keys.ErrHSM)

// Class says what to do about an error.
type Class int

const (
	None     Class = iota
	Caller         // the input: nothing is wrong with the token
	Session        // drop the session, once more with a new one
	Handle         // find the object again, once more
	Login          // log in again (single-flight), once more
	Outdated       // the result may be another key's: once more
	PIN            // never again
	Device         // the breaker counts it; reopen the module
)

// Of judges an error. It is the only place that does. Errors that are
// no PKCS#11 errors, and ErrIdentity, are the caller's: another attempt would
// end the same way.
func Of(err error) Class {
	var e *Error
	if err == nil {
		return None
	}
	if errors.Is(err, ErrOutdated) {
		return Outdated
	}
	if !errors.As(err, &e) {
		return Caller
	}
	switch e.Code {
	case pkcs11.CKR_GENERAL_ERROR, pkcs11.CKR_FUNCTION_FAILED:
		// What many modules answer to a ciphertext that does not open.
		// Counted as a failure of the device, it would let any caller close
		// the gateway.
		if e.Op == OpDecrypt {
			return Caller
		}
		if e.Code == pkcs11.CKR_GENERAL_ERROR {
			return Session
		}
		return Device
	case pkcs11.CKR_SESSION_HANDLE_INVALID, pkcs11.CKR_SESSION_CLOSED, pkcs11.CKR_SESSION_READ_ONLY, pkcs11.CKR_SESSION_READ_ONLY_EXISTS,
		pkcs11.CKR_OPERATION_ACTIVE, pkcs11.CKR_OPERATION_NOT_INITIALIZED, pkcs11.CKR_FUNCTION_CANCELED, pkcs11.CKR_CANCEL,
		pkcs11.CKR_BUFFER_TOO_SMALL:
		return Session
	case pkcs11.CKR_KEY_HANDLE_INVALID, pkcs11.CKR_OBJECT_HANDLE_INVALID:
		return Handle
	case pkcs11.CKR_USER_NOT_LOGGED_IN:
		return Login
	case pkcs11.CKR_PIN_INCORRECT, pkcs11.CKR_PIN_LOCKED, pkcs11.CKR_PIN_EXPIRED, pkcs11.CKR_PIN_INVALID, pkcs11.CKR_PIN_LEN_RANGE:
		return PIN
	case pkcs11.CKR_DEVICE_ERROR, pkcs11.CKR_DEVICE_MEMORY, pkcs11.CKR_DEVICE_REMOVED, pkcs11.CKR_HOST_MEMORY,
		pkcs11.CKR_TOKEN_NOT_PRESENT, pkcs11.CKR_TOKEN_NOT_RECOGNIZED, pkcs11.CKR_SLOT_ID_INVALID,
		pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, pkcs11.CKR_MUTEX_BAD, pkcs11.CKR_MUTEX_NOT_LOCKED:
		return Device
	}
	return Caller
}

// DoesNotOpen reports whether err is a token's answer to a ciphertext that was
// changed or made by another key.
func DoesNotOpen(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Op == OpDecrypt && Of(e) == Caller
}

// NoSession reports whether err is a token's word that it has no session left.
func NoSession(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == pkcs11.CKR_SESSION_COUNT && (e.Op == OpOpenSession || e.Op == OpLogin)
}

// kindOf returns the sentinel of a code: what a caller is told.
func kindOf(code uint) error {
	switch code {
	case pkcs11.CKR_MECHANISM_INVALID, pkcs11.CKR_MECHANISM_PARAM_INVALID, pkcs11.CKR_FUNCTION_NOT_SUPPORTED,
		pkcs11.CKR_KEY_SIZE_RANGE, pkcs11.CKR_KEY_TYPE_INCONSISTENT, pkcs11.CKR_KEY_FUNCTION_NOT_PERMITTED,
		pkcs11.CKR_CURVE_NOT_SUPPORTED, pkcs11.CKR_DOMAIN_PARAMS_INVALID, pkcs11.CKR_TEMPLATE_INCONSISTENT,
		pkcs11.CKR_ATTRIBUTE_TYPE_INVALID, pkcs11.CKR_ATTRIBUTE_VALUE_INVALID, pkcs11.CKR_ARGUMENTS_BAD:
		return keys.ErrUnsupported
	case pkcs11.CKR_SESSION_COUNT: // other applications hold the token's sessions
		return keys.ErrOverloaded
	}
	return keys.ErrHSM
}

// The operations. An ...Init is observed as part of its operation, but is
// judged by itself.
const (
	OpInitialize  = "Initialize"
	OpFinalize    = "Finalize"
	OpOpenSession = "OpenSession"
	OpSessionInfo = "GetSessionInfo"
	OpTokenInfo   = "GetTokenInfo"
	OpSlotList    = "GetSlotList"
	OpLogin       = "Login"
	OpFind        = "Find"
	OpAttributes  = "GetAttributeValue"
	OpSignInit    = "SignInit"
	OpSign        = "Sign"
	OpEncryptInit = "EncryptInit"
	OpEncrypt     = "Encrypt"
	OpDecryptInit = "DecryptInit"
	OpDecrypt     = "Decrypt"
	OpRandom      = "Random"
	OpGenerate    = "Generate"
	OpDestroy     = "Destroy"
	OpCreate      = "CreateObject"
)

// Wrap turns what a library returned into an *Error, or into an error that
// says op and keys.ErrHSM if it is no PKCS#11 error at all.
func Wrap(op string, err error) error {
	if err == nil {
		return nil
	}
	var code pkcs11.Error
	if !errors.As(err, &code) {
		return fmt.Errorf("calling C_%s: %w: %w", op, keys.ErrHSM, err)
	}
	return &Error{Op: op, Code: uint(code), kind: kindOf(uint(code))}
}

// CodeName returns the CKR_ name of a code.
func CodeName(code uint) string {
	text := pkcs11.Error(code).Error()
	if name := text[strings.LastIndexByte(text, ' ')+1:]; name != "" {
		return name
	}
	return fmt.Sprintf("CKR_0x%X", code)
}

// Result is what an operator's metrics are told about err: "ok", a CKR_ name,
// or "error".
func Result(err error) string {
	var e *Error
	switch {
	case err == nil:
		return "ok"
	case errors.As(err, &e):
		return CodeName(e.Code)
	}
	return "error"
}

// Ended is the error of a call whose context ended before the token answered.
func Ended(ctx context.Context) error {
	if err := ctx.Err(); !errors.Is(err, context.DeadlineExceeded) {
		return err
	}
	return fmt.Errorf("%w: %w", keys.ErrTimeout, context.DeadlineExceeded)
}

// Limits of Again.
const (
	attempts = 5
	pause    = 20 * time.Millisecond
)

// Busy reports whether err is CKR_GENERAL_ERROR: what SoftHSM 2.6.1 answers
// while another process makes or destroys objects, or logs in.
func Busy(err error) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == pkcs11.CKR_GENERAL_ERROR
}

// Pause waits before attempt 2, 3, ... of what failed by Busy.
func Pause(attempt int) { time.Sleep(time.Duration(attempt) * pause) }

// Again repeats f, a few times, while its error is Busy. It is for opening a
// module and for making and destroying objects.
func Again(f func() error) error {
	for attempt := 1; ; attempt++ {
		err := f()
		if attempt == attempts || !Busy(err) {
			return err
		}
		Pause(attempt)
	}
}
