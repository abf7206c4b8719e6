// Package material loads what a gateway is configured with beside
// keyhole.yaml itself: certificates, JWKS, revocation lists, groups and
// policies. It opens files; only with Options.Fetch does it use the network.
package material

import (
	"context"
	"crypto/tls"
	"log/slog"
	"slices"

	"keyhole/authz"
	"keyhole/cmd/keyholed/internal/config"
	"keyhole/cmd/keyholed/internal/reload"
	"keyhole/cmd/keyholed/internal/strictyaml"
	"keyhole/cmd/keyholed/internal/tlsfiles"
)

// Set is what was loaded.
type Set struct {
	TLS           *tlsfiles.Files
	Authenticator *authz.Authenticator
	Policies      *authz.Policies

	authPaths []string
	authHash  string
}

// Options say how to load.
type Options struct {
	Fetch bool // include the issuers whose keys come by URL
	Log   *slog.Logger
}

// Load loads everything that c names. Its error is strictyaml.Errors with
// everything that cannot be used.
func Load(ctx context.Context, c *config.Config, o Options) (*Set, error) {
	s := &Set{authPaths: authPaths(c)}
	var problems strictyaml.Errors
	note := func(path string, err error) {
		if err != nil {
			problems = append(problems, c.Problem(path, "%v", err))
		}
	}
	var err error
	s.TLS, err = loadTLS(c)
	note("tls", err)
	s.authHash, err = reload.Hash(s.authPaths...) // before they are read: a change in between is seen as one
	note("auth", err)
	s.Authenticator, err = authz.NewAuthenticator(ctx, authConfig(c, o))
	note("auth", err)
	s.Policies, err = authz.LoadPolicies(c.Policies.Files...)
	note("policies", err)
	checkWebhooks(c, note)
	if len(problems) > 0 {
		return nil, problems.Sorted()
	}
	return s, nil
}

func loadTLS(c *config.Config) (*tlsfiles.Files, error) {
	version, err := tlsfiles.Version(c.TLS.MinVersion)
	if err != nil {
		return nil, err
	}
	t := tlsfiles.Config{CertFile: c.TLS.CertFile, KeyFile: c.TLS.KeyFile, ClientCAFile: c.TLS.ClientCAFile, MinVersion: version}
	switch c.TLS.ClientAuth {
	case config.ClientAuthOptional:
		t.ClientAuth = tls.VerifyClientCertIfGiven
	case config.ClientAuthRequired:
		t.ClientAuth = tls.RequireAndVerifyClientCert
	}
	return tlsfiles.Load(t)
}

func authConfig(c *config.Config, o Options) authz.Config {
	a := authz.Config{Leeway: c.Auth.Leeway, GroupsFile: c.Auth.GroupsFile, Log: o.Log}
	if a.Leeway == 0 {
		a.Leeway = -1 // none; to authz, 0 is the default
	}
	m := c.Auth.MTLS
	a.MTLS = authz.MTLS{
		Names: m.Names, CRLFiles: c.TLS.CRLFiles, OUGroups: m.OUGroups, GroupPrefix: m.GroupPrefix,
		AllowExpiredCRL: m.AllowExpiredCRL, AllowMissingCRL: m.AllowMissingCRL,
	}
	if c.TLS.ClientCAFile != "" {
		a.MTLS.CAFiles = []string{c.TLS.ClientCAFile}
	}
	for _, i := range c.Auth.Issuers {
		if i.JWKSURL != "" && !o.Fetch {
			continue
		}
		a.Issuers = append(a.Issuers, authz.Issuer{
			Name: i.Name, Issuer: i.Issuer, Audience: i.Audience, Algorithms: i.Algorithms,
			JWKSURL: i.JWKSURL, JWKSFile: i.JWKSFile, CAFile: i.CAFile,
			SubjectClaim: i.SubjectClaim, GroupsClaim: i.GroupsClaim, GroupPrefix: i.GroupPrefix, MaxLifetime: i.MaxLifetime,
		})
	}
	return a
}

// authPaths returns the files that authz reads again.
func authPaths(c *config.Config) []string {
	paths := slices.Clone(c.TLS.CRLFiles)
	if c.Auth.GroupsFile != "" {
		paths = append(paths, c.Auth.GroupsFile)
	}
	if len(c.TLS.CRLFiles) > 0 {
		paths = append(paths, c.TLS.ClientCAFile)
	}
	for _, i := range c.Auth.Issuers {
		if i.JWKSFile != "" {
			paths = append(paths, i.JWKSFile)
		}
	}
	return paths
}

// Parts returns what a reload.Reloader is to watch.
func (s *Set) Parts(c *config.Config) []reload.Part {
	return []reload.Part{
		{Name: "tls", Paths: s.TLS.Paths, Load: s.TLS.Reload},
		{Name: "auth", Paths: func() []string { return s.authPaths }, Load: s.reloadAuth},
		{Name: "policies", Paths: func() []string { return c.Policies.Files }, Load: func(context.Context) (bool, string, error) {
			return s.Policies.Reload()
		}},
	}
}

// Hashes identify what is in use, by the names of Parts. Call it before a
// reload can begin.
func (s *Set) Hashes() map[string]string {
	return map[string]string{"tls": s.TLS.Hash(), "auth": s.authHash, "policies": s.Policies.Hash()}
}

// reloadAuth is called by one goroutine at a time.
func (s *Set) reloadAuth(ctx context.Context) (changed bool, hash string, err error) {
	if hash, err = reload.Hash(s.authPaths...); err != nil {
		return false, "", err
	}
	if err := s.Authenticator.Reload(ctx); err != nil {
		return false, "", err
	}
	changed = hash != s.authHash
	s.authHash = hash
	return changed, hash, nil
}
