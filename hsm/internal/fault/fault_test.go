package fault

import (
	"errors"
	"fmt"
	"testing"

	"github.com/miekg/pkcs11"

	"keyhole/keys"
)

func TestOf(t *testing.T) {
	t.Parallel()
	for _, c := range []struct {
		op   string
		code uint
		want Class
		kind error
	}{
		{OpDecrypt, pkcs11.CKR_GENERAL_ERROR, Caller, keys.ErrHSM},
		{OpDecrypt, pkcs11.CKR_FUNCTION_FAILED, Caller, keys.ErrHSM},
		{OpDecryptInit, pkcs11.CKR_GENERAL_ERROR, Session, keys.ErrHSM},
		{OpDecrypt, pkcs11.CKR_DEVICE_ERROR, Device, keys.ErrHSM},
		{OpSign, pkcs11.CKR_GENERAL_ERROR, Session, keys.ErrHSM},
		{OpSign, pkcs11.CKR_FUNCTION_FAILED, Device, keys.ErrHSM},
		{OpSign, pkcs11.CKR_SESSION_HANDLE_INVALID, Session, keys.ErrHSM},
		{OpSignInit, pkcs11.CKR_KEY_HANDLE_INVALID, Handle, keys.ErrHSM},
		{OpSignInit, pkcs11.CKR_USER_NOT_LOGGED_IN, Login, keys.ErrHSM},
		{OpLogin, pkcs11.CKR_PIN_INCORRECT, PIN, keys.ErrHSM},
		{OpLogin, pkcs11.CKR_PIN_LOCKED, PIN, keys.ErrHSM},
		{OpSign, pkcs11.CKR_DATA_LEN_RANGE, Caller, keys.ErrHSM},
		{OpSignInit, pkcs11.CKR_MECHANISM_INVALID, Caller, keys.ErrUnsupported},
		{OpOpenSession, pkcs11.CKR_SESSION_COUNT, Caller, keys.ErrOverloaded},
		{OpOpenSession, pkcs11.CKR_CRYPTOKI_NOT_INITIALIZED, Device, keys.ErrHSM},
		{OpSign, 0x80000001, Caller, keys.ErrHSM}, // a vendor's
	} {
		err := fmt.Errorf("wrapped: %w", Wrap(c.op, pkcs11.Error(c.code)))
		var e *Error
		if got := Of(err); got != c.want || !errors.Is(err, c.kind) || !errors.As(err, &e) || e.Code != c.code {
			t.Errorf("%s, %s: class %d, %v", c.op, CodeName(c.code), got, err)
		}
	}
	if Of(nil) != None || Of(ErrIdentity) != Caller || !errors.Is(ErrIdentity, keys.ErrHSM) {
		t.Error("errors that are no PKCS#11 errors")
	}
	if CodeName(0x80000001) != "CKR_0x80000001" || CodeName(pkcs11.CKR_PIN_LOCKED) != "CKR_PIN_LOCKED" {
		t.Error("CodeName")
	}
}
