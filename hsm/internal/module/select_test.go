package module

import (
	"errors"
	"strings"
	"testing"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
)

func TestPick(t *testing.T) {
	t.Parallel()
	const ready = pkcs11.CKF_TOKEN_INITIALIZED | pkcs11.CKF_USER_PIN_INITIALIZED
	slot := func(n uint, label, serial string, flags uint) Slot {
		return Slot{n, pkcs11.TokenInfo{Label: label, SerialNumber: serial, Flags: flags}}
	}
	found := []Slot{
		slot(0, "a", "1", ready), slot(1, "twin", "2", ready), slot(2, "twin", "3", ready),
		slot(3, "", "4", 0), slot(4, "no pin", "5", pkcs11.CKF_TOKEN_INITIALIZED),
	}
	for _, c := range []struct {
		label, serial string
		slot          uint
		want          error
		says          string
	}{
		{label: "a", slot: 0},
		{serial: "3", slot: 2},
		{label: "twin", serial: "2", slot: 1},
		{label: "twin", want: fault.ErrNoToken, says: "serial number"},
		{label: "a", serial: "2", want: fault.ErrNoToken, says: `"twin" (serial 3)`},
		{serial: "4", want: fault.ErrNotInitialised, says: "softhsm2-util"},
		{serial: "5", want: fault.ErrNotInitialised, says: "user PIN"},
		{label: "b", want: fault.ErrNoToken, says: "2 that do not answer"},
	} {
		got, err := pick(Config{Label: c.label, Serial: c.serial}, found, 2)
		if !errors.Is(err, c.want) || err == nil && got.ID != c.slot || err != nil && !strings.Contains(err.Error(), c.says) {
			t.Errorf("label %q, serial %q: slot %d, %v", c.label, c.serial, got.ID, err)
		}
	}
	if _, err := pick(Config{Label: "a"}, found[3:4], 0); !errors.Is(err, fault.ErrNoToken) || !strings.Contains(err.Error(), "initialise one") {
		t.Errorf("only uninitialised tokens: %v", err)
	}
}
