package config

import (
	"fmt"
	"net"
	"net/url"
	"time"
)

// Types and formats of exports.
const (
	ExportSyslog = "syslog"
	ExportOTLP   = "otlp"
	FormatJSON   = "json"
	FormatOCSF   = "ocsf"
)

const maxExports = 8

func (k *checker) audit() {
	a := &k.c.Audit
	if k.required("audit.dir", a.Dir, "the directory of the audit log; it is made if it does not exist") {
		k.parent("audit.dir", a.Dir)
	}
	if a.KeysFile != "" {
		k.parent("audit.keys_file", a.KeysFile)
	}
	k.between("audit.checkpoint_every", a.CheckpointEvery, time.Second, time.Hour)
	if a.SegmentSize < 1<<20 || a.SegmentSize > 4<<30 {
		k.addf("audit.segment_size", "must be between 1MiB and 4GiB")
	}
	k.between("audit.segment_age", a.SegmentAge, time.Minute, 366*24*time.Hour)
	if len(a.Exports) > maxExports {
		k.addf("audit.exports", "lists %d; the most is %d", len(a.Exports), maxExports)
	}
	names := map[string]bool{}
	for i := range a.Exports {
		e, at := &a.Exports[i], fmt.Sprintf("audit.exports[%d]", i)
		k.name(at+".name", e.Name, names, "audit.exports", "how far it has come is kept under it")
		k.word(at+".type", e.Type, ExportSyslog, ExportOTLP)
		k.word(at+".format", e.Format, FormatJSON, FormatOCSF)
		k.file(at+".ca_file", e.CAFile, writeByAll)
		k.file(at+".cert_file", e.CertFile, writeByAll)
		k.file(at+".key_file", e.KeyFile, readByAll|writeByAll)
		k.file(at+".headers_file", e.HeadersFile, readByAll|writeByAll)
		if (e.CertFile == "") != (e.KeyFile == "") {
			k.addf(at+".cert_file", "goes with key_file: give both or none")
		}
		k.count(at+".facility", e.Facility, 0, 23)
		k.count(at+".resend", e.Resend, 0, 1e6)
		k.between(at+".timeout", e.Timeout, time.Second, time.Minute)
		switch e.Type {
		case ExportSyslog:
			if host, port, err := net.SplitHostPort(e.Address); err != nil || host == "" || port == "" {
				k.addf(at+".address", "is missing, or no host:port: where the syslog collector listens for TLS, like siem.example:6514")
			}
			if e.URL != "" || e.HeadersFile != "" {
				k.addf(at+".url", "url and headers_file go with type: otlp")
			}
		case ExportOTLP:
			u, err := url.Parse(e.URL)
			if err != nil || u.Scheme != "https" || u.Hostname() == "" || u.User != nil || u.Fragment != "" {
				k.addf(at+".url", "is missing, or no https URL: where the collector takes logs, like https://otel.example:4318/v1/logs")
			}
			if e.Address != "" {
				k.addf(at+".address", "goes with type: syslog")
			}
		}
	}
}
