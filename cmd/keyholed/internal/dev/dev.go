// Package dev makes everything that a development gateway needs, in one
// directory: a SoftHSM token, a CA with server and client certificates, JWTs,
// policies, and the configuration that ties them together. It is idempotent:
// what is there and still good is kept, what is missing or about to expire is
// made.
//
// The directory is 0700 and its files are 0600. Trust in it ends at the
// machine: whoever can read the directory can be the administrator.
package dev

import (
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"time"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/softhsm"
)

// Files in the directory that others rely on.
const (
	ConfigFile = "keyhole.yaml"
	CAFile     = "ca.crt"
	AdminToken = "admin.jwt"
	AgentToken = "agent.jwt"
	// ApproverToken is for a second administrator, for acts that need two.
	ApproverToken = "approver.jwt" //nolint:gosec // the name of a file
	AddressFile   = "keyhole.addr" // the URL of the API while the gateway runs
	OpsFile       = "ops.addr"     // the URL of the operations listener while it runs
)

// tokenLabel is the label of the SoftHSM token and its name in the
// configuration.
const tokenLabel = "keyhole-dev"

// Options say what to prepare.
type Options struct {
	Dir       string
	Listen    string // "": as the configuration says, or config.Default
	OpsListen string // "": likewise
	Now       func() time.Time
}

// Dir is a prepared directory. It is locked until Close.
type Dir struct {
	Path    string
	Config  *config.Config
	Expires time.Time // of the first token to expire

	d    dir
	lock *os.File
}

// Prepare makes what is missing and loads the configuration. Errors:
// ErrForeign, ErrInUse, softhsm.ErrNotInstalled, strictyaml.Errors about an
// edited configuration.
func Prepare(o Options) (*Dir, error) {
	if o.Now == nil {
		o.Now = time.Now
	}
	if _, err := softhsm.Find(); err != nil {
		return nil, err // before anything is made
	}
	d, lock, err := enter(o.Dir)
	if err != nil {
		return nil, err
	}
	out := &Dir{Path: string(d), d: d, lock: lock}
	err = out.forget() // what a killed gateway left
	if err == nil {
		err = out.fill(o)
	}
	if err != nil {
		return nil, errors.Join(err, unlock(lock))
	}
	return out, nil
}

func (p *Dir) fill(o Options) error {
	d, now := p.d, o.Now()
	token, err := softhsm.Ensure(string(d), tokenLabel)
	if err != nil {
		return fmt.Errorf("making the SoftHSM token: %w", err)
	}
	ca, err := d.ensureCA(now)
	if err != nil {
		return err
	}
	for _, name := range []string{"admin", "agent"} {
		if err := d.ensureCert(ca, name, identity{name: name, usage: x509.ExtKeyUsageClientAuth}, now); err != nil {
			return err
		}
	}
	is, err := d.ensureIssuer()
	if err != nil {
		return err
	}
	for _, t := range []struct{ file, subject, group string }{
		{AdminToken, "admin", "admins"}, {ApproverToken, "approver", "admins"}, {AgentToken, "agent", "agents"},
	} {
		exp, err := d.ensureToken(is, t.file, t.subject, t.group, now)
		if err != nil {
			return err
		}
		if p.Expires.IsZero() || exp.Before(p.Expires) {
			p.Expires = exp
		}
	}
	if err := p.texts(token, o); err != nil {
		return err
	}
	// The configuration cannot be loaded without a server certificate, and
	// says which names it must have.
	hosts := []string{"localhost", "127.0.0.1", "::1"}
	server := identity{name: "localhost", usage: x509.ExtKeyUsageServerAuth, hosts: hosts}
	if err := d.ensureCert(ca, "server", server, now); err != nil {
		return err
	}
	if p.Config, err = config.Load(d.path(ConfigFile)); err != nil {
		return err
	}
	if o.Listen != "" {
		p.Config.Listen = o.Listen
	}
	if o.OpsListen != "" {
		p.Config.Ops.Listen = o.OpsListen
	}
	if p.Config.ModuleEnv == nil {
		p.Config.ModuleEnv = map[string]string{}
	}
	p.Config.ModuleEnv["SOFTHSM2_CONF"] = token.Conf
	server.hosts = append(hosts, listenNames(p.Config.Listen)...)
	return d.ensureCert(ca, "server", server, now)
}

// listenNames returns under which names, beside localhost, the listener can
// be reached.
func listenNames(addr string) []string {
	host, _, err := net.SplitHostPort(addr)
	if err != nil {
		return nil
	}
	if ip := net.ParseIP(host); host != "" && (ip == nil || !ip.IsUnspecified()) {
		return []string{host}
	}
	if name, err := os.Hostname(); err == nil { // all interfaces
		return []string{name}
	}
	return nil
}

// Serving notes where the gateway listens, for other programs.
func (p *Dir) Serving(apiURL, opsURL string) error {
	return errors.Join(p.d.write(AddressFile, []byte(apiURL+"\n")), p.d.write(OpsFile, []byte(opsURL+"\n")))
}

// forget removes the notes of Serving.
func (p *Dir) forget() error {
	var errs []error
	for _, f := range []string{AddressFile, OpsFile} {
		if err := os.Remove(p.d.path(f)); err != nil && !errors.Is(err, os.ErrNotExist) {
			errs = append(errs, err)
		}
	}
	return errors.Join(errs...)
}

// Close removes the notes of Serving and gives the directory up.
func (p *Dir) Close() error { return errors.Join(p.forget(), unlock(p.lock)) }
