package config

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"time"

	"keyhole/cmd/keyholed/internal/harden"
	"keyhole/cmd/keyholed/internal/strictyaml"
)

// maxFile bounds a configuration file in bytes.
const maxFile = 1 << 20

// Default returns the configuration before any file is read.
func Default() *Config {
	return &Config{
		Listen: "127.0.0.1:8443",
		TLS:    TLS{MinVersion: "1.3"},
		Ops:    Ops{Listen: "127.0.0.1:9443"},
		Store:  Store{StartWait: time.Minute, MaxStaleness: 30 * time.Second, Poll: time.Second},
		Audit:  Audit{CheckpointEvery: time.Minute, SegmentSize: 64 << 20, SegmentAge: 24 * time.Hour},
		Rotation: Rotation{
			MinPeriod: time.Hour, MinDestroyDelay: 24 * time.Hour,
			TwoPeople: []string{TwoPeopleDestroy, TwoPeopleDeleteKey}, ApprovalLife: 24 * time.Hour,
		},
		Events: Events{Keep: 30 * 24 * time.Hour},
		Auth:   Auth{Leeway: 10 * time.Second, MTLS: MTLS{Names: []string{"spiffe", "dns", "cn"}}},
		Limits: Limits{
			InFlight:              512,
			FailedLoginsPerMinute: 60, FailedLoginBurst: 30,
			FailedDecryptsPerMinute: 60, FailedDecryptBurst: 100,
		},
		Request:        Request{MaxBody: 1 << 20, MaxBatchBody: 8 << 20, MaxInFlight: 1024, Timeout: 30 * time.Second},
		Log:            Log{Level: "info", Format: "json"},
		ReloadInterval: 5 * time.Second,
		ShutdownDelay:  5 * time.Second,
		ShutdownGrace:  25 * time.Second,
	}
}

// SetDefaults implements strictyaml.Defaulter.
func (t *Token) SetDefaults() {
	t.Sessions, t.SessionWait = 8, 5*time.Second
	t.StuckAfter, t.CanaryInterval = 10*time.Second, 10*time.Second
	t.GCMIV = "caller"
}

// SetDefaults implements strictyaml.Defaulter.
func (i *Issuer) SetDefaults() {
	i.SubjectClaim, i.GroupsClaim, i.MaxLifetime = "sub", "groups", 24*time.Hour
}

// SetDefaults implements strictyaml.Defaulter.
func (e *Export) SetDefaults() {
	e.Format, e.Facility, e.Resend, e.Timeout = FormatJSON, 13, 1000, 10*time.Second
}

// SetDefaults implements strictyaml.Defaulter.
func (w *Webhook) SetDefaults() { w.Timeout, w.GiveUpAfter = 10*time.Second, 24*time.Hour }

// Load reads and checks a file. An error about its contents is
// strictyaml.Errors; any
// other is about reading the file itself.
func Load(path string) (*Config, error) {
	path, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("finding the configuration: %w", err)
	}
	f, err := os.Open(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("there is no configuration file %s; docs/keyhole.yaml is one to start from, and `keyholed dev --dir DIR` writes one", path)
	}
	if err != nil {
		return nil, fmt.Errorf("opening the configuration: %w", err)
	}
	defer f.Close()
	if info, err := f.Stat(); err == nil && info.Mode().IsRegular() && info.Mode().Perm()&writeByAll != 0 {
		return nil, fmt.Errorf("everybody may change the configuration %s (mode %04o); run: chmod o-w %s", path, info.Mode().Perm(), path)
	}
	if err := harden.Exchangeable(path); err != nil {
		return nil, fmt.Errorf("the configuration %s: %w", path, err)
	}
	text, err := io.ReadAll(io.LimitReader(f, maxFile+1))
	if err != nil {
		return nil, fmt.Errorf("reading the configuration: %w", err)
	}
	if len(text) > maxFile {
		return nil, fmt.Errorf("the configuration %s has more than %d bytes: this is no keyhole.yaml", path, maxFile)
	}
	return parse(path, text)
}

// parse decodes and checks text as the contents of the file at path.
func parse(path string, text []byte) (*Config, error) {
	c := Default()
	sum := sha256.Sum256(text)
	c.File, c.Hash = path, hex.EncodeToString(sum[:])
	lines, problems := strictyaml.Decode(path, text, c)
	c.lines = lines
	if lines != nil {
		c.fill()
		problems = append(problems, check(c, problems)...)
	}
	if len(problems) > 0 {
		return nil, problems.Sorted()
	}
	return c, nil
}

// fill computes the defaults that depend on other values.
func (c *Config) fill() {
	if c.TLS.ClientAuth == "" {
		c.TLS.ClientAuth = ClientAuthNone
		if c.TLS.ClientCAFile != "" {
			c.TLS.ClientAuth = ClientAuthOptional
		}
	}
	if _, given := c.lines["request.max_batch_body"]; !given {
		c.Request.MaxBatchBody = max(c.Request.MaxBatchBody, c.Request.MaxBody)
	}
	if _, given := c.lines["shutdown_delay"]; !given && c.Development {
		c.ShutdownDelay = 0 // no balancer stands before it
	}
	if c.Audit.KeysFile == "" && c.Audit.Dir != "" {
		c.Audit.KeysFile = filepath.Join(filepath.Dir(filepath.Clean(c.Audit.Dir)), "audit-keys.pem")
	}
	if c.Node == "" {
		c.Node, _ = os.Hostname() // an empty name is refused by check
	}
}

// Problem makes a Problem about one key of this file, for what only those
// can find out who use the value.
func (c *Config) Problem(path, format string, args ...any) strictyaml.Problem {
	return strictyaml.Problem{File: c.File, Line: c.lines.Of(path), Path: path, Text: fmt.Sprintf(format, args...)}
}

// PIN reads the token's PIN, anew at each call; the caller clears it. No
// error of it shows what it read.
func (t *Token) PIN() ([]byte, error) {
	if t.PINEnv != "" {
		pin := os.Getenv(t.PINEnv)
		if pin == "" {
			return nil, errors.New("the environment variable that pin_env names, which is to hold the PIN, is empty or not set") // its name is not shown: it may be the PIN itself
		}
		return []byte(pin), nil
	}
	text, err := os.ReadFile(t.PINFile)
	if err != nil {
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err // somebody may have written the PIN itself where its file belongs
		}
		return nil, fmt.Errorf("reading the PIN file: %w", err)
	}
	end := len(text)
	if end > 0 && text[end-1] == '\n' {
		end--
		if end > 0 && text[end-1] == '\r' {
			end--
		}
	}
	if end == 0 {
		return nil, errors.New("the PIN file is empty")
	}
	if end > maxPIN {
		clear(text)
		return nil, fmt.Errorf("the PIN file holds more than %d bytes: this is no PIN", maxPIN)
	}
	return text[:end:end], nil
}

const maxPIN = 255

// Password returns what reads the password, anew at each call, or nil if
// there is none. No error of it shows what it read.
func (p Postgres) Password() func() ([]byte, error) {
	if p.PasswordFile == "" {
		return nil
	}
	return func() ([]byte, error) {
		text, err := os.ReadFile(p.PasswordFile)
		var pe *os.PathError
		if errors.As(err, &pe) {
			err = pe.Err
		}
		if err != nil {
			return nil, fmt.Errorf("reading the password file: %w", err)
		}
		return text, nil
	}
}
