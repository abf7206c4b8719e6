package config

import (
	"fmt"
	"net/netip"
	"net/url"
	"os"
	"regexp"
	"slices"
	"strings"
	"time"

	"keyhole/authz"
	"keyhole/cmd/keyholed/internal/strictyaml"
)

// Signature algorithms of JWTs. A shared secret is none of them: it would
// let the gateway make tokens.
var jwtAlgorithms = []string{"ES256", "ES384", "ES512", "EdDSA", "RS256", "RS384", "RS512", "PS256", "PS384", "PS512"}

var issuerName = regexp.MustCompile(`^[a-z0-9][a-z0-9._-]{0,62}$`)

func (k *checker) auth() {
	a := k.c.Auth
	if len(a.Issuers) == 0 && k.c.TLS.ClientAuth == ClientAuthNone {
		k.addf("auth", "nobody could authenticate: list JWT issuers in auth.issuers, or ask for client certificates with tls.client_auth")
	}
	if a.Leeway > authz.MaxLeeway {
		k.addf("auth.leeway", "is %s; the most is %s: set the clocks instead", a.Leeway, authz.MaxLeeway)
	}
	k.file("auth.groups_file", a.GroupsFile, writeByAll)
	names, issuers := map[string]bool{}, map[string]bool{}
	for i := range a.Issuers {
		is, at := &a.Issuers[i], fmt.Sprintf("auth.issuers[%d]", i)
		if !issuerName.MatchString(is.Name) {
			k.addf(at+".name", "must be 1 to 63 of a-z, 0-9, '-', '.' and '_'; principals are called jwt:NAME:SUBJECT")
		}
		if is.Name != "" && names[is.Name] {
			k.addf(at+".name", "%q names two issuers; the names must differ", is.Name)
		}
		if is.Issuer != "" && issuers[is.Issuer] {
			k.addf(at+".issuer", "the claim of another issuer in this list; it must belong to one of them")
		}
		names[is.Name], issuers[is.Issuer] = true, true
		k.required(at+".issuer", is.Issuer, "the value of the \"iss\" claim, to the letter")
		if len(is.Audience) == 0 || slices.Contains(is.Audience, "") {
			k.addf(at+".audience", "is missing or empty; list what the \"aud\" claim may be, or tokens for other services would be taken")
		}
		if len(is.Algorithms) == 0 {
			k.addf(at+".algorithms", "is missing; list the issuer's signature algorithms, like [ES256]")
		}
		for j, alg := range is.Algorithms {
			k.algorithm(fmt.Sprintf("%s.algorithms[%d]", at, j), alg)
		}
		k.jwks(at, is)
		k.required(at+".subject_claim", is.SubjectClaim, "the claim that names the principal")
		k.between(at+".max_lifetime", is.MaxLifetime, time.Minute, 366*24*time.Hour)
	}
	if len(a.MTLS.Names) == 0 {
		k.addf("auth.mtls.names", "is empty; list where a client certificate's name is taken from: spiffe, dns, cn")
	}
	for i, n := range a.MTLS.Names {
		at := fmt.Sprintf("auth.mtls.names[%d]", i)
		k.word(at, n, "spiffe", "dns", "cn")
		if slices.Contains(a.MTLS.Names[:i], n) {
			k.addf(at, "%q is given twice", strictyaml.Clip(n))
		}
	}
	if len(k.c.Policies.Files) == 0 {
		k.addf("policies.files", "is missing; list Cedar policy files (*.cedar) or directories of them; without any policy everything is denied")
	}
	for i, f := range k.c.Policies.Files {
		at := fmt.Sprintf("policies.files[%d]", i)
		if info, err := os.Stat(f); err != nil || !info.IsDir() {
			k.file(at, f, writeByAll)
		} else if info.Mode().Perm()&writeByAll != 0 {
			k.addf(at, "everybody may put policies into %s (mode %04o); run: chmod o-w %s", f, info.Mode().Perm(), f)
		} else {
			k.exchangeable(at, f)
		}
	}
}

func (k *checker) algorithm(path, alg string) {
	switch {
	case slices.Contains(jwtAlgorithms, alg):
	case strings.HasPrefix(alg, "HS") || strings.EqualFold(alg, "none"):
		k.addf(path, "%q is refused: only asymmetric signatures prove who issued a token; use %s", strictyaml.Clip(alg), strictyaml.OneOf(jwtAlgorithms))
	default:
		k.word(path, alg, jwtAlgorithms...)
	}
}

func (k *checker) jwks(at string, is *Issuer) {
	switch {
	case (is.JWKSURL == "") == (is.JWKSFile == ""):
		k.addf(at, "give either jwks_url or jwks_file: where the issuer's public keys are")
	case is.JWKSFile != "":
		k.file(at+".jwks_file", is.JWKSFile, writeByAll)
		if is.CAFile != "" {
			k.addf(at+".ca_file", "has no effect with jwks_file; it is for jwks_url")
		}
	default:
		u, err := url.Parse(is.JWKSURL)
		switch {
		case err != nil || u.Hostname() == "" || u.User != nil:
			k.addf(at+".jwks_url", "is no URL like https://issuer.example/.well-known/jwks.json")
		case u.Scheme == "http" && loopback(u.Hostname()):
		case u.Scheme != "https":
			k.addf(at+".jwks_url", "must be https: whoever can change these keys can be anybody (http is for loopback only)")
		}
		k.file(at+".ca_file", is.CAFile, writeByAll)
	}
}

func loopback(host string) bool {
	ip, err := netip.ParseAddr(host)
	return host == "localhost" || err == nil && ip.IsLoopback()
}
