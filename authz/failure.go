package authz

import (
	"errors"

	"keyhole/authz/internal/reason"
	"keyhole/keys"
)

// errDenied is what every caller is told, whatever failed: a more precise
// answer would help to guess issuers, keys and subjects.
var errDenied = keys.Errorf(keys.ErrUnauthenticated,
	"authentication failed: send a valid token of an accepted issuer, an accepted client certificate, or both")

// failure is the Failure for an error, which is nearly always a reason.
func failure(err error) *Failure {
	if r, ok := errors.AsType[reason.Reason](err); ok {
		return &Failure{Reason: string(r), Err: errDenied}
	}
	return &Failure{Reason: string(reason.Malformed), Err: errDenied}
}

// Reasons returns every Reason that a Failure can have.
func Reasons() []string {
	all := make([]string, 0, len(reason.All()))
	for _, r := range reason.All() {
		all = append(all, string(r))
	}
	return all
}
