package certname

import (
	"crypto/x509"
	"crypto/x509/pkix"
	"net/url"
	"strings"
	"testing"
	"unicode"
)

// Whatever a certificate holds, its holder's name is short, printable, of
// one source, and no name of one source can pass for one of another.
func FuzzOf(f *testing.F) {
	f.Add("spiffe://corp.example/billing", "", "host.example", "agent")
	f.Add("spiffe://corp.example/%61", "spiffe://corp.example/admin", "*.example", "spiffe://corp.example/admin")
	f.Add("SPIFFE://CORP/x?y#z", "https://x", "", "a\nb")
	f.Add("spiffe://user@corp:80/a/../b", "", "A.b", "\u202e")
	f.Fuzz(func(t *testing.T, uri, second, dnsName, cn string) {
		cert := &x509.Certificate{Subject: pkix.Name{CommonName: cn}}
		for _, s := range []string{uri, second} {
			if u, err := url.Parse(s); err == nil && s != "" {
				cert.URIs = append(cert.URIs, u)
			}
		}
		if dnsName != "" {
			cert.DNSNames = []string{dnsName}
		}
		if cn != "" {
			cert.Subject.Names = []pkix.AttributeTypeAndValue{{Type: oidCommonName, Value: cn}}
		}
		for _, sources := range [][]string{{"spiffe"}, {"dns"}, {"cn"}, Sources()} {
			name, err := Of(cert, sources)
			if (name == "") != (err != nil) {
				t.Fatalf("%v: %q, %v", sources, name, err)
			}
			if err != nil {
				continue
			}
			if len(name) > MaxName || strings.IndexFunc(name, func(r rune) bool { return !unicode.IsPrint(r) }) >= 0 {
				t.Fatalf("%v: the name %q", sources, name)
			}
			isID := strings.HasPrefix(name, "spiffe://")
			if sources[0] == "spiffe" && len(sources) == 1 && (!isID || strings.Contains(name, "..") && strings.Contains(name, "/../") || strings.ContainsAny(name, "%?#@*")) {
				t.Fatalf("the SPIFFE ID %q", name)
			}
			if sources[0] != "spiffe" && strings.Contains(name, "://") {
				t.Fatalf("%v: %q would pass for a URI", sources, name)
			}
		}
	})
}
