package app

import (
	"context"
	"crypto/x509"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"syscall"
	"time"

	"keyhole/keys"
)

// hint says what to do about an error; "" if its own text says it all.
func (a *App) hint(ctx context.Context, err error) string {
	var unknownCA x509.UnknownAuthorityError
	var otherName x509.HostnameError
	var badCert x509.CertificateInvalidError
	switch {
	case errors.As(err, &unknownCA):
		return "its certificate is by a CA unknown here: name that CA's file with KEYHOLE_CACERT or --cacert (keyholed dev: ca.crt in its directory)"
	case errors.As(err, &otherName):
		return "the address must be one of the names in the gateway's certificate: see KEYHOLE_ADDR"
	case errors.As(err, &badCert) && badCert.Reason == x509.Expired:
		return "the gateway's certificate has expired or is not valid yet; look at the clocks, or renew it there"
	case errors.Is(err, http.ErrSchemeMismatch):
		return "the gateway speaks plain HTTP there: is that its operations listener?"
	case errors.Is(err, syscall.ECONNREFUSED):
		return "does the gateway run, and does KEYHOLE_ADDR name its address?"
	case errors.Is(err, keys.ErrUnauthenticated):
		return a.loginHint(ctx, time.Now())
	case errors.Is(err, keys.ErrForbidden):
		return "keyhole whoami shows who you are to the gateway"
	case errors.Is(err, keys.ErrKeyNotFound):
		return "keyhole key list shows the keys that you may see"
	case errors.Is(err, keys.ErrVersionNotFound):
		return "keyhole key show KEY shows its versions"
	case errors.Is(err, keys.ErrTooLarge):
		return "sign and verify take files of any size with --hash, which sends a digest only"
	case errors.Is(err, keys.ErrRotationRunning):
		return "keyhole rotation list KEY shows it"
	case errors.Is(err, keys.ErrInUse):
		return "keyhole usage KEY shows who uses it; --force with --reason overrides that, and another person must approve it"
	case errors.Is(err, keys.ErrNotSubscribed):
		return "keyhole subscribe KEY first"
	case errors.Is(err, keys.ErrTampered):
		return "keyhole reconcile --dry-run and the gateway's log say more"
	}
	return ""
}

// loginHint says what is wrong with the credentials as far as it can be seen
// from here.
func (a *App) loginHint(ctx context.Context, now time.Time) string {
	cfg, err := a.config()
	if err != nil {
		return ""
	}
	if cfg.Token == nil {
		if cfg.CertFile != "" {
			return ""
		}
		return "no credentials are set: KEYHOLE_TOKEN_FILE (or KEYHOLE_TOKEN) for a token, KEYHOLE_CERT and KEYHOLE_KEY for a client certificate"
	}
	token, err := cfg.Token(ctx)
	if err != nil {
		return ""
	}
	expires, begins, ok := tokenTimes(token)
	switch {
	case !ok:
		return "the token does not look like a JWT"
	case !expires.IsZero() && !now.Before(expires):
		return fmt.Sprintf("the token expired at %s: get a new one", Stamp(expires))
	case now.Before(begins):
		return fmt.Sprintf("the token is not valid before %s: look at the clocks", Stamp(begins))
	}
	return ""
}

// tokenTimes reads exp and nbf of a JWT, unverified.
func tokenTimes(token string) (expires, begins time.Time, ok bool) {
	parts := strings.Split(token, ".")
	if len(parts) != 3 {
		return expires, begins, false
	}
	body, err := base64.RawURLEncoding.DecodeString(parts[1])
	var claims struct {
		Exp float64 `json:"exp"`
		Nbf float64 `json:"nbf"`
	}
	if err != nil || json.Unmarshal(body, &claims) != nil {
		return expires, begins, false
	}
	const year9999 = 253402300799 // a number beyond is none that people can read as a time
	if claims.Exp > 0 && claims.Exp < year9999 {
		expires = time.Unix(int64(claims.Exp), 0)
	}
	if claims.Nbf > 0 && claims.Nbf < year9999 {
		begins = time.Unix(int64(claims.Nbf), 0)
	}
	return expires, begins, true
}
