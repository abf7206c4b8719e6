// Package certname finds the name of the holder in a client certificate
// that TLS has verified.
package certname

import (
	"crypto/x509"
	"encoding/asn1"
	"fmt"
	"net/url"
	"slices"
	"strings"

	"keyhole/authz/internal/text"
)

// MaxName is the longest name in bytes.
const MaxName = 256

// Sources returns where a name may come from.
func Sources() []string { return []string{"spiffe", "dns", "cn"} }

// Of returns the name of a certificate's holder from the first of the
// sources that it has: "spiffe" is its SPIFFE ID (a URI SAN), "dns" its
// first DNS SAN, "cn" its common name. A certificate whose first source is
// ambiguous or malformed has no name: the others are not tried then.
func Of(cert *x509.Certificate, sources []string) (string, error) {
	for _, s := range sources {
		var name string
		var err error
		switch s {
		case "spiffe":
			name, err = spiffe(cert)
		case "dns":
			name, err = dns(cert)
		case "cn":
			name, err = commonName(cert)
		default:
			err = fmt.Errorf("unknown source of names %q", s)
		}
		if name != "" || err != nil {
			return name, err
		}
	}
	return "", fmt.Errorf("the certificate has no name of the kinds %s", strings.Join(sources, ", "))
}

// spiffe reads the ID by the rules of the SPIFFE X509-SVID standard: one URI
// SAN, no more.
func spiffe(cert *x509.Certificate) (string, error) {
	i := slices.IndexFunc(cert.URIs, func(u *url.URL) bool { return strings.EqualFold(u.Scheme, "spiffe") })
	if i < 0 {
		return "", nil
	}
	if len(cert.URIs) > 1 {
		return "", fmt.Errorf("the certificate has a SPIFFE ID among %d URIs; one is allowed", len(cert.URIs))
	}
	id := cert.URIs[i].String()
	rest, ok := strings.CutPrefix(id, "spiffe://")
	domain, path, hasPath := strings.Cut(rest, "/")
	if !ok || domain == "" || len(id) > MaxName || !only(domain, "abcdefghijklmnopqrstuvwxyz0123456789.-_") {
		return "", fmt.Errorf("the certificate's SPIFFE ID %.64q is malformed", id)
	}
	if hasPath {
		for segment := range strings.SplitSeq(path, "/") {
			if segment == "" || segment == "." || segment == ".." ||
				!only(segment, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") {
				return "", fmt.Errorf("the certificate's SPIFFE ID %.64q has a malformed path", id)
			}
		}
	}
	return id, nil
}

// dns returns the first DNS name, in lower case: DNS names are the same in
// any case, policies are not.
func dns(cert *x509.Certificate) (string, error) {
	if len(cert.DNSNames) == 0 {
		return "", nil
	}
	name := strings.ToLower(cert.DNSNames[0])
	if name == "" || len(name) > MaxName || !only(name, "abcdefghijklmnopqrstuvwxyz0123456789.-_") {
		return "", fmt.Errorf("the certificate's DNS name %.64q is not one of a host", name)
	}
	return name, nil
}

var oidCommonName = asn1.ObjectIdentifier{2, 5, 4, 3}

func commonName(cert *x509.Certificate) (string, error) {
	n := 0
	for _, a := range cert.Subject.Names {
		if a.Type.Equal(oidCommonName) {
			n++
		}
	}
	name := cert.Subject.CommonName
	switch {
	case n == 0 || name == "":
		return "", nil
	case n > 1:
		return "", fmt.Errorf("the certificate has %d common names; one is allowed", n)
	case strings.Contains(name, "://"):
		return "", fmt.Errorf("the certificate's common name %.64q would pass for a URI", name)
	case !text.Printable(name, MaxName):
		return "", fmt.Errorf("the certificate's common name %.64q has characters that cannot be shown, or too many", name)
	}
	return name, nil
}

func only(s, set string) bool {
	for i := range len(s) {
		if strings.IndexByte(set, s[i]) < 0 {
			return false
		}
	}
	return true
}
