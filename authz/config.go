package authz

import (
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"keyhole/authz/internal/certname"
	"keyhole/authz/internal/jwks"
)

// MaxLeeway is the largest difference of clocks that is made up for.
const MaxLeeway = time.Minute

// Config is what an Authenticator needs. The zero value takes client
// certificates only.
type Config struct {
	Issuers []Issuer
	MTLS    MTLS
	// Groups and GroupsFile put principals into groups, beside what their
	// credentials say: from a group to principals such as
	// "mtls:spiffe://example.org/billing". The file is YAML of the same form
	// and is read again by Reload.
	Groups     map[string][]string
	GroupsFile string
	// Leeway makes up for clocks that differ (default 10s, at most 1m;
	// negative: none).
	Leeway time.Duration
	// MaxToken is the longest token in bytes (default 8192).
	MaxToken int
	// CacheSize is how many verified tokens are remembered (default 10000;
	// negative: none).
	CacheSize int
	// JWKSInterval is the time between two fetches of a key set (default 5m).
	JWKSInterval time.Duration
	// JWKSTimeout bounds one fetch (default 2s), and so how long a request
	// with an unknown key id can wait.
	JWKSTimeout time.Duration
	// JWKSMinInterval is the time between two fetches of an issuer's key set
	// for unknown key ids (default 5s).
	JWKSMinInterval time.Duration
	Now             func() time.Time // default time.Now
	Log             *slog.Logger     // default slog.Default()
}

// Issuer is one authority whose tokens are accepted.
type Issuer struct {
	Name     string   // in principals, "jwt:<name>:<subject>": a-z, 0-9, '-', '.' and '_'
	Issuer   string   // the claim iss, exactly
	Audience []string // one of them must be in the claim aud
	// Algorithms are those that the issuer signs with (default: all
	// asymmetric ones; a key is only ever used for those of its type).
	Algorithms []string
	JWKSURL    string // https, or http on this machine; or
	JWKSFile   string
	CAFile     string // PEM certificates to trust for JWKSURL (default: those of the system)
	// SubjectClaim and GroupsClaim name the claims (default "sub" and
	// "groups"). Groups are an array of strings or one string with spaces
	// between them.
	SubjectClaim, GroupsClaim string
	// GroupPrefix is put before every group that the issuer names, so that
	// it cannot name those of another one.
	GroupPrefix string
	// MaxLifetime bounds exp - iat, and makes iat required. 0: no bound.
	MaxLifetime time.Duration
}

// MTLS says how client certificates are read.
type MTLS struct {
	// Names are the sources of a name, in order (default "spiffe", "dns",
	// "cn"). Leave out what the CAs do not vouch for.
	Names []string
	// CRLFiles are revocation lists (PEM or DER, complete and direct), and
	// CAFiles the PEM certificates of the CAs that sign them. With lists, a
	// certificate whose issuer has none, or an expired one, is refused,
	// unless allowed here.
	CRLFiles, CAFiles                []string
	AllowExpiredCRL, AllowMissingCRL bool
	// OUGroups makes a certificate's organizational units the groups of its
	// holder, with GroupPrefix before them.
	OUGroups    bool
	GroupPrefix string
}

var issuerName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

// check fills in defaults and refuses a configuration that would check less
// than it seems to.
func (c *Config) check() error {
	switch {
	case c.Leeway == 0:
		c.Leeway = 10 * time.Second
	case c.Leeway < 0:
		c.Leeway = 0
	}
	if c.Leeway > MaxLeeway {
		return fmt.Errorf("a leeway of %s is more than %s: set the clocks instead", c.Leeway, MaxLeeway)
	}
	c.MaxToken = orDefault(c.MaxToken, 8192)
	c.JWKSInterval = orDefault(c.JWKSInterval, 5*time.Minute)
	c.JWKSTimeout = orDefault(c.JWKSTimeout, 2*time.Second)
	c.JWKSMinInterval = orDefault(c.JWKSMinInterval, 5*time.Second)
	if c.CacheSize == 0 {
		c.CacheSize = 10000
	}
	if c.Now == nil {
		c.Now = time.Now
	}
	if c.Log == nil {
		c.Log = slog.Default()
	}
	if len(c.MTLS.Names) == 0 {
		c.MTLS.Names = certname.Sources()
	}
	for _, n := range c.MTLS.Names {
		if !slices.Contains(certname.Sources(), n) {
			return fmt.Errorf("unknown source %q of names in client certificates; use %s", n, strings.Join(certname.Sources(), ", "))
		}
	}
	if len(c.MTLS.CRLFiles) > 0 && len(c.MTLS.CAFiles) == 0 {
		return errors.New("revocation lists need the certificates of the CAs that sign them")
	}
	c.Issuers = slices.Clone(c.Issuers)
	names, urls := map[string]bool{}, map[string]bool{}
	for i := range c.Issuers {
		is := &c.Issuers[i]
		if err := is.check(); err != nil {
			return fmt.Errorf("issuer %q: %w", is.Name, err)
		}
		if names[is.Name] || urls[is.Issuer] {
			return fmt.Errorf("issuer %q: its name or its issuer claim %q is given twice", is.Name, is.Issuer)
		}
		names[is.Name], urls[is.Issuer] = true, true
	}
	return nil
}

func orDefault[T int | time.Duration](v, def T) T {
	if v <= 0 {
		return def
	}
	return v
}

func (is *Issuer) check() error {
	if !issuerName.MatchString(is.Name) {
		return errors.New("the name must be 1 to 63 of a-z, 0-9, '-', '.' and '_'")
	}
	// golang-jwt checks neither of these when it is empty.
	if is.Issuer == "" {
		return errors.New("the issuer claim is empty: any issuer would be accepted")
	}
	if len(is.Audience) == 0 || slices.Contains(is.Audience, "") {
		return errors.New("the audience is empty: tokens meant for others would be accepted")
	}
	if len(is.Algorithms) == 0 {
		is.Algorithms = jwks.Algorithms()
	}
	for _, a := range is.Algorithms {
		if !slices.Contains(jwks.Algorithms(), a) {
			return fmt.Errorf("tokens cannot be signed with %q; use asymmetric algorithms: %s", a, strings.Join(jwks.Algorithms(), ", "))
		}
	}
	switch {
	case (is.JWKSURL == "") == (is.JWKSFile == ""):
		return errors.New("give either the URL or the file of its key set")
	case is.JWKSURL != "":
		if err := jwks.CheckURL(is.JWKSURL); err != nil {
			return err
		}
	}
	if is.SubjectClaim == "" {
		is.SubjectClaim = "sub"
	}
	if is.GroupsClaim == "" {
		is.GroupsClaim = "groups"
	}
	if is.MaxLifetime < 0 {
		return errors.New("the longest lifetime of a token is negative")
	}
	return nil
}

// readCertificates returns the certificates in PEM files.
func readCertificates(files []string) ([]*x509.Certificate, error) {
	var certs []*x509.Certificate
	for _, file := range files {
		data, err := os.ReadFile(file)
		if err != nil {
			return nil, fmt.Errorf("reading CA certificates: %w", err)
		}
		n := len(certs)
		for block, rest := pem.Decode(data); block != nil; block, rest = pem.Decode(rest) {
			if block.Type != "CERTIFICATE" {
				continue
			}
			cert, err := x509.ParseCertificate(block.Bytes)
			if err != nil {
				return nil, fmt.Errorf("reading CA certificates from %s: %w", file, err)
			}
			certs = append(certs, cert)
		}
		if len(certs) == n {
			return nil, fmt.Errorf("%s holds no PEM certificate", file)
		}
	}
	return certs, nil
}
