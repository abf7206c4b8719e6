package api

import (
	"context"
	"errors"
	"net/http"

	"keyhole/keys"
)

// ProblemType is the media type of error answers (RFC 9457).
const ProblemType = "application/problem+json"

// Problem is an error answer (RFC 9457). Code is stable; Detail is for
// people and may change.
type Problem struct {
	Type      string `json:"type"` // "urn:keyhole:error:" + Code
	Title     string `json:"title"`
	Status    int    `json:"status"`
	Detail    string `json:"detail,omitempty"`
	Code      string `json:"code"`
	RequestID string `json:"request_id,omitempty"`
}

// codeRow ties a sentinel to its code and status. The first row whose
// sentinel an error is decides.
type codeRow struct {
	err    error
	code   string
	status int
}

var codes = []codeRow{
	{keys.ErrMalformed, "malformed_request", http.StatusBadRequest},
	{keys.ErrUnauthenticated, "unauthenticated", http.StatusUnauthorized},
	{keys.ErrForbidden, "forbidden", http.StatusForbidden},
	{keys.ErrKeyNotFound, "key_not_found", http.StatusNotFound},
	{keys.ErrVersionNotFound, "version_not_found", http.StatusNotFound},
	{keys.ErrNotFound, "not_found", http.StatusNotFound},
	{keys.ErrMethod, "method_not_allowed", http.StatusMethodNotAllowed},
	{keys.ErrKeyExists, "key_exists", http.StatusConflict},
	{keys.ErrKeyRetired, "key_name_retired", http.StatusConflict},
	{keys.ErrConflict, "conflict", http.StatusConflict},
	{keys.ErrRotationRunning, "rotation_running", http.StatusConflict},
	{keys.ErrVersionState, "version_state", http.StatusConflict},
	{keys.ErrNoActiveVersion, "no_active_version", http.StatusConflict},
	{keys.ErrTooLarge, "payload_too_large", http.StatusRequestEntityTooLarge},
	{keys.ErrMediaType, "unsupported_media_type", http.StatusUnsupportedMediaType},
	{keys.ErrInvalid, "invalid_argument", http.StatusUnprocessableEntity},
	{keys.ErrWrongPurpose, "wrong_purpose", http.StatusUnprocessableEntity},
	{keys.ErrDecrypt, "decryption_failed", http.StatusUnprocessableEntity},
	{keys.ErrUnsupported, "unsupported_by_hsm", http.StatusUnprocessableEntity},
	{keys.ErrRateLimited, "rate_limited", http.StatusTooManyRequests},
	{keys.ErrOverloaded, "overloaded", http.StatusServiceUnavailable},
	{keys.ErrTimeout, "timeout", http.StatusServiceUnavailable},
	{keys.ErrHSM, "hsm_unavailable", http.StatusServiceUnavailable},
	{keys.ErrAudit, "audit_unavailable", http.StatusServiceUnavailable},
	{keys.ErrStore, "store_unavailable", http.StatusServiceUnavailable},
	{keys.ErrStale, "state_stale", http.StatusServiceUnavailable},
	{keys.ErrTampered, "data_tampered", http.StatusServiceUnavailable},
	{keys.ErrNotSubscribed, "not_subscribed", http.StatusConflict},
	{keys.ErrInUse, "version_in_use", http.StatusConflict},
	{keys.ErrInternal, "internal", http.StatusInternalServerError},
}

// ProblemOf describes err for a caller. Only the Detail of a *keys.Error is
// shown; any other text stays inside, and an error that is no sentinel is
// "internal".
func ProblemOf(err error) Problem {
	if errors.Is(err, context.DeadlineExceeded) || errors.Is(err, context.Canceled) {
		err = keys.ErrTimeout
	}
	row := codes[len(codes)-1]
	for _, r := range codes {
		if errors.Is(err, r.err) {
			row = r
			break
		}
	}
	p := Problem{
		Type:   "urn:keyhole:error:" + row.code,
		Title:  row.err.Error(),
		Status: row.status,
		Code:   row.code,
	}
	var detailed *keys.Error
	if errors.As(err, &detailed) && row.status != http.StatusInternalServerError {
		p.Detail = detailed.Detail
	}
	return p
}

// Err returns the sentinel error behind a code, with the problem's detail;
// the inverse of ProblemOf. An unknown code becomes ErrInternal.
func (p Problem) Err() error {
	detail := p.Detail
	if detail == "" {
		detail = p.Title
	}
	for _, r := range codes {
		if r.code == p.Code {
			return keys.Errorf(r.err, "%s", detail)
		}
	}
	return keys.Errorf(keys.ErrInternal, "the gateway answered %d %q: %s", p.Status, p.Code, detail)
}

// Err returns the error of one item in a batch, as Problem.Err does.
func (e *ItemError) Err() error {
	return Problem{Code: e.Code, Status: e.Status, Detail: e.Detail}.Err()
}

// Codes returns every code with its status, for documentation and tests.
func Codes() map[string]int {
	all := make(map[string]int, len(codes))
	for _, r := range codes {
		all[r.code] = r.status
	}
	return all
}

// CodeOf returns the code of err, as in ProblemOf; "" for nil.
func CodeOf(err error) string {
	if err == nil {
		return ""
	}
	return ProblemOf(err).Code
}
