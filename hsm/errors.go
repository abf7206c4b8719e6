package hsm

import "keyhole/hsm/internal/fault"

// Error is a failed PKCS#11 call. It unwraps to a sentinel of package keys.
// Its text is for logs, not for callers.
type Error = fault.Error

// Conditions that an operator must mend. Open returns them wrapped, with what
// to do in the text; all are keys.ErrHSM.
var (
	ErrNoModule       = fault.ErrNoModule
	ErrNoToken        = fault.ErrNoToken
	ErrNotInitialised = fault.ErrNotInitialised
	ErrPIN            = fault.ErrPIN
	ErrTokenInUse     = fault.ErrTokenInUse
)
