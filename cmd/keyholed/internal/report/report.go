// Package report says what `keyholed check-config` found.
package report

import (
	"bytes"
	"crypto/x509"
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
	"time"

	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/material"
	"keyhole/cmd/keyholed/internal/tlsfiles"
)

// Write describes a configuration that is good, warns of what soon will not
// be, and says what nobody has looked at.
func Write(to io.Writer, c *config.Config, files *material.Set, now time.Time) error {
	var text bytes.Buffer
	w := tabwriter.NewWriter(&text, 0, 0, 2, ' ', 0)
	say := func(format string, args ...any) { _, _ = fmt.Fprintf(w, format, args...) } // a buffer takes everything
	row := func(name, format string, args ...any) { say("  %s\t%s\n", name, fmt.Sprintf(format, args...)) }
	say("%s is good.\n", c.File)
	row("node", "%s", c.Node)
	row("API", "%s, TLS %s or later, client certificates: %s", c.Listen, c.TLS.MinVersion, c.TLS.ClientAuth)
	cert := files.TLS.Certificate()
	row("certificate", "%s", describe(cert))
	for _, ca := range files.TLS.ClientCAs() {
		row("client CA", "%s", describe(ca))
	}
	for _, f := range c.TLS.CRLFiles {
		row("CRL", "%s", f)
	}
	if c.Ops.Listen == "" {
		row("operations", "off")
	} else {
		row("operations", "http://%s", c.Ops.Listen)
	}
	for _, t := range c.Tokens {
		row("token "+t.Name, "%s in %s, PIN from %s, %d sessions", selector(t), t.Module, pinSource(t), t.Sessions)
	}
	row("store", "%s", database(c.Store))
	row("audit", "%s", c.Audit.Dir)
	var byURL []string
	for _, i := range c.Auth.Issuers {
		from := i.JWKSFile
		if i.JWKSURL != "" {
			from, _, _ = strings.Cut(i.JWKSURL, "?") // a query may hold a secret
			byURL = append(byURL, from)
		}
		row("issuer "+i.Name, "%s for %s, keys from %s", i.Issuer, strings.Join(i.Audience, ", "), from)
	}
	row("policies", "%s (SHA-256 %.16s...)", strings.Join(c.Policies.Files, ", "), files.Policies.Hash())
	row("two people", "%s", orNone(c.Rotation.TwoPeople))
	for _, t := range c.Triggers {
		row("trigger "+t.Name, "%s, reason %s", strings.Join(t.Keys, ", "), t.Reason)
	}
	for _, h := range material.Webhooks(c) {
		row("webhook "+h.Name, "%s, signed by %s", h.Host(), h.SigningKey)
	}
	if c.Development {
		say("Warning: this is a development gateway; versions may be destroyed %s after the order.\n", c.Rotation.MinDestroyDelay)
	}
	for _, crt := range append([]*x509.Certificate{cert}, files.TLS.ClientCAs()...) {
		if err := tlsfiles.Expiring(crt, now); err != nil {
			say("Warning: %v.\n", err)
		}
	}
	say("Not checked: whether the HSM takes the PIN and has the token, the database, the audit log, whether the addresses are free")
	if len(byURL) > 0 {
		say(", the key sets at %s", strings.Join(byURL, ", "))
	}
	if len(c.Webhooks) > 0 {
		say(", whether webhooks can be reached")
	}
	say(".\n")
	if err := w.Flush(); err != nil {
		return err
	}
	_, err := text.WriteTo(to)
	return err
}

func orNone(words []string) string {
	if len(words) == 0 {
		return "for no act"
	}
	return "for " + strings.Join(words, ", ")
}

func database(s config.Store) string {
	if !s.Shared() {
		return "SQLite " + s.SQLite
	}
	by := "without a password"
	if s.Postgres.PasswordFile != "" {
		by = "password from " + s.Postgres.PasswordFile
	}
	if s.Postgres.CertFile != "" {
		by += ", client certificate " + s.Postgres.CertFile
	}
	return "PostgreSQL " + s.Where() + ", " + by
}

func describe(c *x509.Certificate) string {
	var names []string
	names = append(names, c.DNSNames...)
	for _, ip := range c.IPAddresses {
		names = append(names, ip.String())
	}
	text := c.Subject.String()
	if len(names) > 0 {
		text += " for " + strings.Join(names, ", ")
	}
	return text + ", until " + c.NotAfter.UTC().Format(time.RFC3339)
}

func selector(t config.Token) string {
	var by []string
	if t.Label != "" {
		by = append(by, fmt.Sprintf("label %q", t.Label))
	}
	if t.Serial != "" {
		by = append(by, fmt.Sprintf("serial %q", t.Serial))
	}
	return strings.Join(by, " and ")
}

func pinSource(t config.Token) string {
	if t.PINEnv != "" {
		return "the environment (" + t.PINEnv + ")"
	}
	return t.PINFile
}
