package authz_test

import (
	"context"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/asn1"
	"errors"
	"io"
	"log"
	"math/big"
	"net/http"
	"net/http/httptest"
	"net/url"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"keyhole/authz"
	"keyhole/authz/authztest"
)

func named(dns ...string) x509.Certificate { return x509.Certificate{DNSNames: dns} }

func thumbprint(c *x509.Certificate) []byte { s := sha256.Sum256(c.Raw); return s[:] }

func TestCertificateNames(t *testing.T) {
	t.Parallel()
	c := newClock()
	ca := authztest.NewCA(t, "clients", c.now())
	uris := func(raw ...string) (all []*url.URL) {
		for _, r := range raw {
			u, err := url.Parse(r)
			if err != nil {
				t.Fatal(err)
			}
			all = append(all, u)
		}
		return all
	}
	cn := func(names ...string) (n pkix.Name) {
		for _, v := range names {
			n.ExtraNames = append(n.ExtraNames, pkix.AttributeTypeAndValue{Type: asn1.ObjectIdentifier{2, 5, 4, 3}, Value: v})
		}
		return n
	}
	long := strings.Repeat("a", 257)
	for name, tt := range map[string]struct {
		cert  x509.Certificate
		order []string
		want  string // "": refused
	}{
		"SPIFFE first":        {x509.Certificate{URIs: uris("spiffe://example.org/ns/prod/sa/billing"), DNSNames: []string{"b.example.org"}, Subject: cn("b")}, nil, "spiffe://example.org/ns/prod/sa/billing"},
		"SPIFFE, domain only": {x509.Certificate{URIs: uris("spiffe://example.org")}, nil, "spiffe://example.org"},
		"DNS second":          {x509.Certificate{DNSNames: []string{"B.Example.org", "other"}, Subject: cn("b")}, nil, "b.example.org"},
		"CN third":            {x509.Certificate{Subject: cn("Billing (prod)")}, nil, "Billing (prod)"},
		"CN first":            {x509.Certificate{DNSNames: []string{"b.example.org"}, Subject: cn("b")}, []string{"cn", "dns"}, "b"},
		"another URI":         {x509.Certificate{URIs: uris("https://example.org/x"), DNSNames: []string{"b.example.org"}}, nil, "b.example.org"},

		"nothing":                 {x509.Certificate{}, nil, ""},
		"CN not asked for":        {x509.Certificate{Subject: cn("b")}, []string{"spiffe", "dns"}, ""},
		"two SPIFFE IDs":          {x509.Certificate{URIs: uris("spiffe://example.org/a", "spiffe://example.org/b")}, nil, ""},
		"SPIFFE ID and URI":       {x509.Certificate{URIs: uris("https://example.org/", "spiffe://example.org/b"), DNSNames: []string{"b"}}, nil, ""},
		"SPIFFE, no domain":       {x509.Certificate{URIs: uris("spiffe:///a"), DNSNames: []string{"b.example.org"}}, nil, ""},
		"SPIFFE, port":            {x509.Certificate{URIs: uris("spiffe://example.org:8443/a")}, nil, ""},
		"SPIFFE, user":            {x509.Certificate{URIs: uris("spiffe://root@example.org/a")}, nil, ""},
		"SPIFFE, capital":         {x509.Certificate{URIs: uris("spiffe://Example.org/a")}, nil, ""},
		"SPIFFE, scheme":          {x509.Certificate{URIs: uris("SPIFFE://Example.org/a")}, nil, ""},
		"SPIFFE, dots":            {x509.Certificate{URIs: uris("spiffe://example.org/a/../b")}, nil, ""},
		"SPIFFE, empty segment":   {x509.Certificate{URIs: uris("spiffe://example.org/a//b")}, nil, ""},
		"SPIFFE, slash at end":    {x509.Certificate{URIs: uris("spiffe://example.org/a/")}, nil, ""},
		"SPIFFE, query":           {x509.Certificate{URIs: uris("spiffe://example.org/a?b=c")}, nil, ""},
		"SPIFFE, fragment":        {x509.Certificate{URIs: uris("spiffe://example.org/a#b")}, nil, ""},
		"SPIFFE, escape":          {x509.Certificate{URIs: uris("spiffe://example.org/a%2fb")}, nil, ""},
		"SPIFFE, too long":        {x509.Certificate{URIs: uris("spiffe://example.org/" + long)}, nil, ""},
		"wildcard":                {x509.Certificate{DNSNames: []string{"*.example.org"}, Subject: cn("b")}, nil, ""},
		"two CNs":                 {x509.Certificate{Subject: cn("a", "b")}, nil, ""},
		"CN that passes for one":  {x509.Certificate{Subject: cn("spiffe://example.org/admin")}, nil, ""},
		"CN with a line break":    {x509.Certificate{Subject: cn("a\nb")}, nil, ""},
		"CN with an invisible":    {x509.Certificate{Subject: cn("a\u200bb")}, nil, ""},
		"CN too long":             {x509.Certificate{Subject: cn(long)}, nil, ""},
		"SPIFFE comes before CN ": {x509.Certificate{URIs: uris("spiffe://EXAMPLE/a"), Subject: cn("b")}, []string{"spiffe", "cn"}, ""},
	} {
		a := auth(t, c, authz.Config{MTLS: authz.MTLS{Names: tt.order}})
		_, chain := ca.Issue(t, tt.cert, c.now())
		t.Run(name, func(t *testing.T) {
			if tt.want == "" {
				refuse(t, a, "", chain, "certificate-name")
				return
			}
			p := accept(t, a, "", chain)
			if p.ID != "mtls:"+tt.want || p.Method != "mtls" || !p.ExpiresAt.Equal(chain[0].NotAfter) || len(p.Groups) > 0 {
				t.Errorf("principal %+v, want %s", p, tt.want)
			}
		})
	}
}

func TestCertificateGroups(t *testing.T) {
	t.Parallel()
	c := newClock()
	ca := authztest.NewCA(t, "clients", c.now())
	cert := named("b.example.org")
	cert.Subject.OrganizationalUnit = []string{"Signers", "Billing"}
	_, chain := ca.Issue(t, cert, c.now())
	groups := map[string][]string{"ops": {"mtls:b.example.org"}, "x": {"mtls:x"}}

	if p := accept(t, auth(t, c, authz.Config{Groups: groups}), "", chain); !slices.Equal(p.Groups, []string{"ops"}) {
		t.Errorf("groups %q, want those configured only", p.Groups)
	}
	a := auth(t, c, authz.Config{Groups: groups, MTLS: authz.MTLS{OUGroups: true, GroupPrefix: "ou/"}})
	if p := accept(t, a, "", chain); !slices.Equal(p.Groups, []string{"ops", "ou/Billing", "ou/Signers"}) {
		t.Errorf("groups %q", p.Groups)
	}
	cert.SerialNumber = nil
	cert.Subject.OrganizationalUnit = []string{"a\tb"}
	_, chain = ca.Issue(t, cert, c.now())
	refuse(t, a, "", chain, "certificate-groups")
}

func TestExpiredCertificate(t *testing.T) {
	t.Parallel()
	c := newClock()
	ca := authztest.NewCA(t, "clients", c.now())
	_, chain := ca.Issue(t, named("b.example.org"), c.now())
	a := auth(t, c, authz.Config{})
	accept(t, a, "", chain)
	c.advance(time.Hour + time.Second)
	refuse(t, a, "", chain, "certificate-expired")
}

func TestRevocation(t *testing.T) {
	t.Parallel()
	c := newClock()
	root := authztest.NewCA(t, "root", c.now())
	sub := root.NewSub(t, "sub", c.now())
	twin := authztest.NewCA(t, "sub", c.now()) // another CA of the same name
	_, good := sub.Issue(t, named("good.example.org"), c.now())
	_, bad := sub.Issue(t, named("bad.example.org"), c.now())
	_, direct := root.Issue(t, named("direct.example.org"), c.now())
	next := c.now().Add(time.Hour)
	cas := authztest.WriteFile(t, "cas.pem", authztest.PEM("CERTIFICATE", root.Cert.Raw, sub.Cert.Raw, twin.Cert.Raw))
	file := func(der []byte) string { return authztest.WriteFile(t, "list.crl", der) }
	with := func(m authz.MTLS, lists ...[]byte) *authz.Authenticator {
		t.Helper()
		m.CAFiles = []string{cas}
		for _, l := range lists {
			m.CRLFiles = append(m.CRLFiles, file(l))
		}
		return auth(t, c, authz.Config{MTLS: m})
	}

	t.Run("revoked", func(t *testing.T) {
		for _, list := range [][]byte{
			sub.CRL(t, c.now(), next, bad[0]),
			authztest.PEM("X509 CRL", sub.CRL(t, c.now(), next, bad[0])),
			authztest.PEM("X509 CRL", root.CRL(t, c.now(), next), sub.CRL(t, c.now(), next, bad[0])),
		} {
			a := with(authz.MTLS{}, list)
			accept(t, a, "", good)
			refuse(t, a, "", bad, "revoked")
			refuse(t, a, "", bad[:1], "revoked") // with only the leaf to go by
			refuse(t, a, "x", bad, "revoked")    // whatever the token
		}
	})
	t.Run("a revoked CA", func(t *testing.T) {
		a := with(authz.MTLS{}, sub.CRL(t, c.now(), next), root.CRL(t, c.now(), next, sub.Cert))
		refuse(t, a, "", good, "revoked")
		accept(t, a, "", direct)
	})
	t.Run("no list", func(t *testing.T) {
		list := sub.CRL(t, c.now(), next)
		refuse(t, with(authz.MTLS{}, list), "", direct, "crl-missing")
		accept(t, with(authz.MTLS{AllowMissingCRL: true}, list), "", direct)
	})
	t.Run("the list of a twin", func(t *testing.T) {
		a := with(authz.MTLS{}, twin.CRL(t, c.now(), next, bad[0]))
		refuse(t, a, "", bad, "crl-missing")
		a = with(authz.MTLS{}, twin.CRL(t, c.now(), next, good[0]), sub.CRL(t, c.now(), next, bad[0]))
		accept(t, a, "", good)
		refuse(t, a, "", bad, "revoked")
	})
	t.Run("expired", func(t *testing.T) {
		late := newClock()
		list := authz.MTLS{CAFiles: []string{cas}, CRLFiles: []string{file(sub.CRL(t, c.now(), next, bad[0]))}}
		lax := list
		lax.AllowExpiredCRL = true
		var logged strings.Builder
		strict, loose := auth(t, late, authz.Config{MTLS: list, Log: textLog(&logged)}), auth(t, late, authz.Config{MTLS: lax})
		late.advance(59 * time.Minute)
		accept(t, strict, "", good)
		late.advance(time.Minute - time.Second)
		accept(t, strict, "", good)
		late.advance(2 * time.Second)
		_, young := sub.Issue(t, named("young.example.org"), late.now())
		refuse(t, strict, "", young, "crl-expired")
		accept(t, loose, "", young)
		_, badYoung := sub.Issue(t, x509.Certificate{DNSNames: []string{"x"}, SerialNumber: bad[0].SerialNumber}, late.now())
		refuse(t, loose, "", badYoung, "revoked")
		refuse(t, strict, "", badYoung, "revoked")
		if err := strict.Reload(context.Background()); err != nil {
			t.Error(err)
		}
		if !strings.Contains(logged.String(), "have expired") || !strings.Contains(logged.String(), list.CRLFiles[0]) {
			t.Errorf("the log does not tell: %s", logged.String())
		}
	})
}

func TestBadRevocationLists(t *testing.T) {
	t.Parallel()
	c := newClock()
	ca := authztest.NewCA(t, "clients", c.now())
	stranger := authztest.NewCA(t, "clients", c.now())
	next := c.now().Add(time.Hour)
	good := ca.CRL(t, c.now(), next)
	cas := authztest.WriteFile(t, "cas.pem", authztest.PEM("CERTIFICATE", ca.Cert.Raw))
	critical := func(l *x509.RevocationList) []byte {
		l.Number, l.ThisUpdate, l.NextUpdate = big.NewInt(1), c.now(), next
		return ca.SignCRL(t, l)
	}
	tampered := slices.Clone(good)
	tampered[len(tampered)-1] ^= 1
	for name, data := range map[string][]byte{
		"empty":            {},
		"text":             []byte("hello"),
		"a certificate":    authztest.PEM("CERTIFICATE", ca.Cert.Raw),
		"cut":              good[:len(good)-10],
		"and more":         append(slices.Clone(good), 0),
		"tampered":         tampered,
		"of a stranger":    stranger.CRL(t, c.now(), next),
		"PEM cut":          authztest.PEM("X509 CRL", good)[:200],
		"PEM and text":     append(authztest.PEM("X509 CRL", good), "hello"...),
		"from the future":  ca.CRL(t, c.now().Add(2*time.Hour), next.Add(2*time.Hour)),
		"delta":            critical(&x509.RevocationList{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 27}, Critical: true, Value: []byte{2, 1, 1}}}}),
		"partial":          critical(&x509.RevocationList{ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 28}, Critical: true, Value: []byte{0x30, 0}}}}),
		"of other issuers": critical(&x509.RevocationList{RevokedCertificateEntries: []x509.RevocationListEntry{{SerialNumber: big.NewInt(1), RevocationTime: c.now(), ExtraExtensions: []pkix.Extension{{Id: asn1.ObjectIdentifier{2, 5, 29, 29}, Critical: true, Value: []byte{0x30, 0}}}}}}),
	} {
		file := authztest.WriteFile(t, "list.crl", data)
		conf := authz.Config{Now: c.now, MTLS: authz.MTLS{CAFiles: []string{cas}, CRLFiles: []string{file}}}
		if _, err := authz.NewAuthenticator(context.Background(), conf); err == nil || !strings.Contains(err.Error(), file) {
			t.Errorf("%s: %v, want an error that names the file", name, err)
		}
	}
	missing := filepath.Join(t.TempDir(), "none")
	for _, m := range []authz.MTLS{
		{CRLFiles: []string{missing}, CAFiles: []string{cas}},
		{CRLFiles: []string{cas}, CAFiles: []string{missing}},
		{CRLFiles: []string{cas}, CAFiles: []string{authztest.WriteFile(t, "x", nil)}},
	} {
		if _, err := authz.NewAuthenticator(context.Background(), authz.Config{MTLS: m}); err == nil {
			t.Errorf("%+v is accepted", m)
		}
	}
}

// TestReloadOfLists: a new list counts at once, a broken one keeps the old.
func TestReloadOfLists(t *testing.T) {
	t.Parallel()
	c := newClock()
	ca := authztest.NewCA(t, "clients", c.now())
	_, chain := ca.Issue(t, named("b.example.org"), c.now())
	next := c.now().Add(time.Hour)
	file := authztest.WriteFile(t, "list.crl", ca.CRL(t, c.now(), next))
	cas := authztest.WriteFile(t, "cas.pem", authztest.PEM("CERTIFICATE", ca.Cert.Raw))
	groups := authztest.WriteFile(t, "groups.yaml", []byte("ops: [mtls:b.example.org]\n"))
	a := auth(t, c, authz.Config{GroupsFile: groups, MTLS: authz.MTLS{CAFiles: []string{cas}, CRLFiles: []string{file}}})
	if p := accept(t, a, "", chain); !slices.Equal(p.Groups, []string{"ops"}) {
		t.Errorf("groups %q", p.Groups)
	}
	// Each part that is good is taken, whatever the others are.
	writeFile(t, file, "broken")
	writeFile(t, groups, "dev: [mtls:b.example.org]\n")
	if err := a.Reload(context.Background()); err == nil || !strings.Contains(err.Error(), file) {
		t.Errorf("a broken list: %v", err)
	}
	if p := accept(t, a, "", chain); !slices.Equal(p.Groups, []string{"dev"}) {
		t.Errorf("groups %q, want the new ones", p.Groups)
	}
	writeFile(t, file, string(ca.CRL(t, c.now(), next, chain[0])))
	writeFile(t, groups, "dev: mtls:b.example.org\n")
	if err := a.Reload(context.Background()); err == nil || !strings.Contains(err.Error(), groups) {
		t.Errorf("broken groups: %v", err)
	}
	refuse(t, a, "", chain, "revoked")
	writeFile(t, file, string(ca.CRL(t, c.now(), next)))
	writeFile(t, groups, "{}\n")
	if err := a.Reload(context.Background()); err != nil {
		t.Error(err)
	}
	if p := accept(t, a, "", chain); len(p.Groups) > 0 {
		t.Errorf("groups %q, want none", p.Groups)
	}
}

// TestListExpiresWhileRunning: whoever forgets to publish a list finds it in
// the log, once.
func TestListExpiresWhileRunning(t *testing.T) {
	t.Parallel()
	synctest.Test(t, func(t *testing.T) {
		now := time.Now()
		ca := authztest.NewCA(t, "clients", now)
		file := authztest.WriteFile(t, "list.crl", ca.CRL(t, now, now.Add(time.Hour)))
		cas := authztest.WriteFile(t, "cas.pem", authztest.PEM("CERTIFICATE", ca.Cert.Raw))
		var logged lockedLog
		a, err := authz.NewAuthenticator(t.Context(), authz.Config{Log: textLog(&logged), MTLS: authz.MTLS{CAFiles: []string{cas}, CRLFiles: []string{file}}})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), 59*time.Minute)
		defer cancel()
		if err := a.Run(ctx); err != nil || logged.String() != "" {
			t.Errorf("before: %v, %s", err, logged.String())
		}
		ctx, cancel = context.WithTimeout(t.Context(), time.Hour)
		defer cancel()
		if err := a.Run(ctx); err != nil || strings.Count(logged.String(), "have expired") != 1 {
			t.Errorf("after: %v, %s", err, logged.String())
		}
	})
}

// TestOverTLS authenticates what crypto/tls has verified on a real
// connection.
func TestOverTLS(t *testing.T) {
	t.Parallel()
	now := time.Now()
	root := authztest.NewCA(t, "root", now)
	sub := root.NewSub(t, "sub", now)
	a, err := authz.NewAuthenticator(context.Background(), authz.Config{})
	if err != nil {
		t.Fatal(err)
	}
	srv := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		var chain []*x509.Certificate
		if len(r.TLS.VerifiedChains) > 0 {
			chain = r.TLS.VerifiedChains[0]
		}
		p, err := a.Authenticate(r.Context(), authz.Credentials{Chain: chain})
		var f *authz.Failure
		if errors.As(err, &f) {
			p.ID = f.Reason
		}
		_, _ = io.WriteString(w, p.ID)
	}))
	pool := x509.NewCertPool()
	pool.AddCert(root.Cert)
	srv.TLS = &tls.Config{ClientAuth: tls.VerifyClientCertIfGiven, ClientCAs: pool}
	srv.Config.ErrorLog = log.New(io.Discard, "", 0)
	srv.StartTLS()
	defer srv.Close()

	cert, _ := sub.Issue(t, named("billing.example.org"), now)
	foreign, _ := authztest.NewCA(t, "root", now).Issue(t, named("billing.example.org"), now)
	get := func(certs ...tls.Certificate) (string, error) {
		tr := srv.Client().Transport.(*http.Transport).Clone()
		defer tr.CloseIdleConnections()
		tr.TLSClientConfig.Certificates = certs
		res, err := (&http.Client{Transport: tr}).Get(srv.URL)
		if err != nil {
			return "", err
		}
		defer res.Body.Close()
		b, err := io.ReadAll(res.Body)
		return string(b), err
	}
	if got, err := get(cert); got != "mtls:billing.example.org" || err != nil {
		t.Errorf("with a certificate: %q, %v", got, err)
	}
	if got, err := get(); got != "no-credentials" || err != nil {
		t.Errorf("without one: %q, %v", got, err)
	}
	if got, err := get(foreign); err == nil && strings.HasPrefix(got, "mtls:") {
		t.Errorf("with one of a foreign CA: %q", got)
	}
}
