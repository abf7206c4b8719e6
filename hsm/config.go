package hsm

import (
	"log/slog"
	"time"

	"keyhole/hsm/internal/mech"
	"keyhole/hsm/internal/module"
	"keyhole/keys"
)

// Config is what Open needs.
type Config struct {
	Tokens []TokenConfig    // at least one; the first is the default token
	Log    *slog.Logger     // default slog.Default()
	Now    func() time.Time // default time.Now
	// Observe is told of every PKCS#11 operation: its name without "C_", the
	// token, "ok" or the CKR_ name, and how long it took. It must be cheap
	// and safe for concurrent use. Default: nothing.
	Observe func(function, token, result string, d time.Duration)
}

// Ways in which a token gets the IV of AES-GCM.
const (
	GCMIVCaller      = mech.IVCaller      // Keyhole makes it (default)
	GCMIVHSMParam    = mech.IVHSMParam    // the token writes it into the mechanism's parameter (CloudHSM)
	GCMIVHSMAppended = mech.IVHSMAppended // the token appends it to the ciphertext (Luna in FIPS mode)
)

// TokenConfig says which token, and how to use it.
type TokenConfig struct {
	Name   string // how keys name it
	Module string // path of the PKCS#11 library
	Label  string // the token's label, its serial number, or both:
	Serial string // exactly one token must match

	// PIN returns the user PIN. It is called at each login; the returned
	// bytes are overwritten after it.
	PIN func() ([]byte, error)

	Sessions       int           // most data-plane sessions (default 8); four more serve logins and management
	SessionWait    time.Duration // longest wait for a session (default 5s)
	QueueWait      time.Duration // an operation that would wait for longer is refused at once (default 300ms); bulk ones may wait for SessionWait
	StuckAfter     time.Duration // a call that runs longer hangs (default 10s)
	MaxStuck       int           // so many hanging calls, and the token is not ready (default half of Sessions)
	CanaryInterval time.Duration // how often Run tries the token (default 10s)
	GCMIV          string        // one of the GCMIV constants (default GCMIVCaller)
}

// queueLength is how many operations of one token may wait for a session, in
// each lane.
const queueLength = 1024

func (c Config) withDefaults() (Config, error) {
	if len(c.Tokens) == 0 {
		return c, keys.Errorf(keys.ErrInvalid, "no token is configured")
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Observe == nil {
		c.Observe = func(string, string, string, time.Duration) {}
	}
	tokens := make([]TokenConfig, len(c.Tokens))
	names := map[string]bool{}
	for i, t := range c.Tokens {
		var err error
		if tokens[i], err = t.withDefaults(); err != nil {
			return c, err
		}
		if names[t.Name] {
			return c, keys.Errorf(keys.ErrInvalid, "two tokens are configured under the name %q", t.Name)
		}
		names[t.Name] = true
	}
	c.Tokens = tokens
	return c, nil
}

func (t TokenConfig) withDefaults() (TokenConfig, error) {
	switch {
	case t.Name == "":
		return t, keys.Errorf(keys.ErrInvalid, "a token without a name is configured")
	case t.Module == "":
		return t, keys.Errorf(keys.ErrInvalid, "token %q: no PKCS#11 module is configured", t.Name)
	case t.Label == "" && t.Serial == "":
		return t, keys.Errorf(keys.ErrInvalid, "token %q: give its label or its serial number", t.Name)
	case t.PIN == nil:
		return t, keys.Errorf(keys.ErrInvalid, "token %q: no PIN is configured", t.Name)
	}
	t.Sessions = defaultTo(t.Sessions, 8)
	t.SessionWait = defaultTo(t.SessionWait, 5*time.Second)
	t.QueueWait = defaultTo(t.QueueWait, 300*time.Millisecond)
	t.StuckAfter = defaultTo(t.StuckAfter, 10*time.Second)
	t.CanaryInterval = defaultTo(t.CanaryInterval, 10*time.Second)
	t.MaxStuck = defaultTo(t.MaxStuck, max(1, t.Sessions/2))
	t.GCMIV = defaultTo(t.GCMIV, GCMIVCaller)
	switch t.GCMIV {
	case GCMIVCaller, GCMIVHSMParam, GCMIVHSMAppended:
	default:
		return t, keys.Errorf(keys.ErrInvalid, "token %q: gcm_iv is %q; use %s, %s or %s", t.Name, t.GCMIV, GCMIVCaller, GCMIVHSMParam, GCMIVHSMAppended)
	}
	if t.Sessions < 1 || t.SessionWait < 0 || t.QueueWait < 0 || t.StuckAfter < 0 || t.CanaryInterval < 0 || t.MaxStuck < 1 {
		return t, keys.Errorf(keys.ErrInvalid, "token %q: a number of sessions or a duration is negative", t.Name)
	}
	return t, nil
}

func defaultTo[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// String never shows a PIN.
func (t TokenConfig) String() string {
	return t.module().String()
}

// module is the part that says which token.
func (t TokenConfig) module() module.Config {
	return module.Config{Name: t.Name, Module: t.Module, Label: t.Label, Serial: t.Serial}
}
