package hsm

import (
	"fmt"
	"slices"
	"strings"

	"github.com/miekg/pkcs11"
)

// pick returns the one token that the configuration names, or says what
// there is instead.
func pick(c TokenConfig, found []slotInfo, skipped int) (slotInfo, error) {
	matches := slices.DeleteFunc(slices.Clone(found), func(s slotInfo) bool {
		return c.Label != "" && s.Label != c.Label || c.Serial != "" && s.SerialNumber != c.Serial
	})
	switch len(matches) {
	case 0:
		if slices.ContainsFunc(found, func(s slotInfo) bool { return s.Flags&pkcs11.CKF_TOKEN_INITIALIZED != 0 }) {
			return slotInfo{}, fmt.Errorf("%v: the module has %s: %w", c, inventory(found, skipped), ErrNoToken)
		}
		return slotInfo{}, fmt.Errorf("%v: the module has %s; initialise one (softhsm2-util --init-token, or the vendor's tool): %w", c, inventory(found, skipped), ErrNoToken)
	case 1:
	default:
		return slotInfo{}, fmt.Errorf("%v: %d tokens match; give the serial number: the module has %s: %w", c, len(matches), inventory(found, skipped), ErrNoToken)
	}
	m := matches[0]
	switch {
	case m.Flags&pkcs11.CKF_TOKEN_INITIALIZED == 0:
		return slotInfo{}, fmt.Errorf("%v: %w; initialise it (softhsm2-util --init-token, or the vendor's tool)", c, ErrNotInitialised)
	case m.Flags&pkcs11.CKF_USER_PIN_INITIALIZED == 0:
		return slotInfo{}, fmt.Errorf("%v: %w: it has no user PIN; set one as its security officer", c, ErrNotInitialised)
	}
	return m, nil
}

// inventory lists tokens for an error message.
func inventory(found []slotInfo, skipped int) string {
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
// succeed. The error is ErrPIN.
func checkPINFlags(flags uint) error {
	switch {
	case flags&pkcs11.CKF_USER_PIN_LOCKED != 0:
		return fmt.Errorf("%w: it is locked; the token's security officer must set a new one", ErrPIN)
	case flags&pkcs11.CKF_USER_PIN_FINAL_TRY != 0:
		return fmt.Errorf("%w: one more wrong PIN would lock it, so no login was tried; check the PIN, then log in once with the vendor's tool", ErrPIN)
	}
	return nil
}
