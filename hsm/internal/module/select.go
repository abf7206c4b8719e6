package module

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"

	"keyhole/hsm/internal/fault"
)

// Slot is what a token says of itself.
type Slot struct {
	ID uint
	pkcs11.TokenInfo
}

// key knows a token again. A serial number alone does not: all tokens of NSS
// have 0000000000000000.
func (s *Slot) key() string { return s.SerialNumber + " " + s.Label }

// pick returns the one token that the configuration names, or says what
// there is instead.
func pick(c Config, found []Slot, skipped int) (Slot, error) {
	matches := slices.DeleteFunc(slices.Clone(found), func(s Slot) bool {
		return c.Label != "" && s.Label != c.Label || c.Serial != "" && s.SerialNumber != c.Serial
	})
	switch len(matches) {
	case 0:
		if slices.ContainsFunc(found, func(s Slot) bool { return s.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 }) {
			return Slot{}, fmt.Errorf("%v: the module has %s: %w", c, inventory(found, skipped), fault.ErrNoToken)
		}
		return Slot{}, fmt.Errorf("%v: the module has %s; see that its HSM is up and within reach, or initialise one (softhsm2-util --init-token, or the vendor's tool): %w", c, inventory(found, skipped), fault.ErrNoToken)
	case 1:
	default:
		return Slot{}, fmt.Errorf("%v: %d tokens match; give the serial number: the module has %s: %w", c, len(matches), inventory(found, skipped), fault.ErrNoToken)
	}
	m := matches[0]
	switch {
	case m.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0:
		return Slot{}, fmt.Errorf("%v: %w; initialise it (softhsm2-util --init-token, or the vendor's tool)", c, fault.ErrNotInitialised)
	case m.Flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return Slot{}, fmt.Errorf("%v: %w: it has no user PIN; set one as its security officer", c, fault.ErrNotInitialised)
	}
	return m, nil
}

// inventory lists tokens for an error message.
func inventory(found []Slot, skipped int) string {
	names := []string{}
	blank := 0
	for _, s := range found {
		if s.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0 {
			blank++
			continue
		}
		names = append(names, fmt.Sprintf("%q (serial %s)", s.Label, s.SerialNumber))
	}
	if blank > 0 {
		names = append(names, fmt.Sprintf("%d uninitialised", blank))
	}
	if skipped > 0 {
		names = append(names, fmt.Sprintf("%d that do not answer", skipped))
	}
	if len(names) == 0 {
		return "no tokens"
	}
	return "these tokens: " + strings.Join(names, ", ")
}

// checkPINFlags refuses a login that could lock the token, or that cannot
// succeed. The error is fault.ErrPINHeld.
func checkPINFlags(flags uint) error {
	switch {
	case flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: it is locked; the token's security officer must set a new one", fault.ErrPINHeld)
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: one more wrong PIN would lock it, so no login was tried; check the PIN, then log in once with the vendor's tool", fault.ErrPINHeld)
	}
	return nil
}
