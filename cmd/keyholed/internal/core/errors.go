package core

import (
	"errors"
	"syscall"

	"keyhole/audit"
	"keyhole/cmd/keyholed/internal/exit"
	"keyhole/hsm"
	"keyhole/keys"
)

// HSMError gives an error of the HSM layer its exit status and what to do.
func HSMError(err error) error {
	switch {
	case err == nil:
		return nil
	case errors.Is(err, hsm.ErrPIN):
		return exit.With(exit.PIN, "the PIN was tried once and is not tried again: correct the PIN file before the next start, "+
			"or repeated starts will lock the token", err)
	case errors.Is(err, hsm.ErrNoModule):
		return exit.With(exit.HSM, "check tokens[].module and that the vendor's client software is installed and configured (module_env)", err)
	case errors.Is(err, hsm.ErrNotInitialised):
		return exit.With(exit.HSM, "initialise the token with the vendor's tool, for SoftHSM: softhsm2-util --init-token", err)
	case errors.Is(err, hsm.ErrNoToken):
		return exit.With(exit.HSM, "check label and serial in tokens[]; `pkcs11-tool --module MODULE --list-token-slots` lists what there is", err)
	}
	return exit.With(exit.HSM, "", err)
}

// AuditError gives an error of the audit log its exit status and what to do.
func AuditError(err error) error {
	if errors.Is(err, audit.ErrInUse) {
		return exit.With(exit.Audit, "another keyholed runs on this audit directory; each gateway needs its own", err)
	}
	if _, failed := errors.AsType[syscall.Errno](err); !failed && !errors.Is(err, keys.ErrAudit) {
		return exit.With(exit.Audit, "the gateway does not write on an audit log that is not whole: `keyhole audit verify` names what is wrong, and docs/audit.md says what to do", err)
	}
	return exit.With(exit.Audit, "without its audit log the gateway does nothing: see that the disk has room and the directory is writable", err)
}

// EngineError gives an error of the engine the status of the part that failed.
func EngineError(err error) error {
	switch {
	case errors.Is(err, keys.ErrAudit):
		return AuditError(err)
	case errors.Is(err, keys.ErrStore), errors.Is(err, keys.ErrStale), errors.Is(err, keys.ErrTampered):
		return StoreError(err)
	}
	return HSMError(err)
}

// StoreError gives an error of the store its exit status.
func StoreError(err error) error { return exit.With(exit.Store, "", err) }
