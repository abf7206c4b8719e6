// Package config reads keyhole.yaml. It is strict: whatever it does not
// understand exactly it refuses, with file, line and the fix, and it reports
// all mistakes of a file at once. docs/keyhole.yaml shows every field with
// its unit and default; a test holds the two together.
//
// Load opens files and nothing else: no listener, no HSM, no network.
package config

import (
	"log/slog"
	"strings"
	"time"

	"keyhole/cmd/keyholed/internal/strictyaml"
)

// Config is a checked keyhole.yaml. Paths are absolute.
type Config struct {
	File string `yaml:"-"` // where it was read from
	Hash string `yaml:"-"` // SHA-256 of the file, in hexadecimal

	Node           string            `yaml:"node"`
	Development    bool              `yaml:"development"`
	Listen         string            `yaml:"listen"`
	TLS            TLS               `yaml:"tls"`
	Ops            Ops               `yaml:"ops"`
	ModuleEnv      map[string]string `yaml:"module_env"`
	Tokens         []Token           `yaml:"tokens"`
	Store          Store             `yaml:"store"`
	Audit          Audit             `yaml:"audit"`
	Auth           Auth              `yaml:"auth"`
	Policies       Policies          `yaml:"policies"`
	Rotation       Rotation          `yaml:"rotation"`
	Triggers       []Trigger         `yaml:"triggers"`
	Events         Events            `yaml:"events"`
	Webhooks       []Webhook         `yaml:"webhooks"`
	Limits         Limits            `yaml:"limits"`
	Request        Request           `yaml:"request"`
	Log            Log               `yaml:"log"`
	ReloadInterval time.Duration     `yaml:"reload_interval"`
	ShutdownDelay  time.Duration     `yaml:"shutdown_delay"`
	ShutdownGrace  time.Duration     `yaml:"shutdown_grace"`

	lines strictyaml.Lines
}

// TLS is the API listener's side of TLS.
type TLS struct {
	CertFile     string   `yaml:"cert_file,path"`
	KeyFile      string   `yaml:"key_file,path"`
	MinVersion   string   `yaml:"min_version"` // "1.2" or "1.3"
	ClientAuth   string   `yaml:"client_auth"` // one of the ClientAuth constants
	ClientCAFile string   `yaml:"client_ca_file,path"`
	CRLFiles     []string `yaml:"crl_files,path"`
}

// What the listener asks of clients.
const (
	ClientAuthNone     = "none"     // no certificate is asked for
	ClientAuthOptional = "optional" // one that is shown must be valid
	ClientAuthRequired = "required" // no connection without one
)

// Ops is the operations listener; an empty Listen turns it off.
type Ops struct {
	Listen string `yaml:"listen"`
}

// Token is one HSM partition.
type Token struct {
	Name           string        `yaml:"name"`
	Module         string        `yaml:"module,path"`
	Label          string        `yaml:"label"`
	Serial         string        `yaml:"serial"`
	PINFile        string        `yaml:"pin_file,path"`
	PINEnv         string        `yaml:"pin_env"`
	Sessions       int           `yaml:"sessions"`
	SessionWait    time.Duration `yaml:"session_wait"`
	StuckAfter     time.Duration `yaml:"stuck_after"`
	MaxStuck       int           `yaml:"max_stuck"` // 0: half of Sessions
	CanaryInterval time.Duration `yaml:"canary_interval"`
	GCMIV          string        `yaml:"gcm_iv"`
	ExitWhenStuck  bool          `yaml:"exit_when_stuck"`
}

// Store is where keys and rotations are kept: in SQLite or in PostgreSQL.
type Store struct {
	SQLite       string        `yaml:"sqlite,path"`
	Postgres     Postgres      `yaml:"postgres"`
	StartWait    time.Duration `yaml:"start_wait"`
	MaxStaleness time.Duration `yaml:"max_staleness"`
	Poll         time.Duration `yaml:"poll"`
}

// Postgres is a PostgreSQL database, which several gateways share.
type Postgres struct {
	URL          string `yaml:"url"`
	PasswordFile string `yaml:"password_file,path"`
	CAFile       string `yaml:"ca_file,path"`
	CertFile     string `yaml:"cert_file,path"`
	KeyFile      string `yaml:"key_file,path"`
}

// Where names the database for people.
func (s Store) Where() string {
	if s.SQLite != "" {
		return s.SQLite
	}
	where, _, _ := strings.Cut(s.Postgres.URL, "?")
	return where
}

// Shared reports whether other gateways may have the same store.
func (s Store) Shared() bool { return s.SQLite == "" }

// Audit is the audit log.
type Audit struct {
	Dir             string          `yaml:"dir,path"`
	KeysFile        string          `yaml:"keys_file,path"`
	CheckpointEvery time.Duration   `yaml:"checkpoint_every"`
	SegmentSize     strictyaml.Size `yaml:"segment_size"`
	SegmentAge      time.Duration   `yaml:"segment_age"`
	Exports         []Export        `yaml:"exports"`
}

// Export is a place that the audit log is sent to.
type Export struct {
	Name        string        `yaml:"name"`
	Type        string        `yaml:"type"` // syslog or otlp
	Address     string        `yaml:"address"`
	URL         string        `yaml:"url"`
	Format      string        `yaml:"format"` // json or ocsf
	CAFile      string        `yaml:"ca_file,path"`
	CertFile    string        `yaml:"cert_file,path"`
	KeyFile     string        `yaml:"key_file,path"`
	HeadersFile string        `yaml:"headers_file,path"`
	Facility    int           `yaml:"facility"`
	Resend      int           `yaml:"resend"`
	Timeout     time.Duration `yaml:"timeout"`
}

// Auth says whom to believe.
type Auth struct {
	Leeway     time.Duration `yaml:"leeway"`
	Issuers    []Issuer      `yaml:"issuers"`
	MTLS       MTLS          `yaml:"mtls"`
	GroupsFile string        `yaml:"groups_file,path"`
}

// Issuer is one issuer of JWTs.
type Issuer struct {
	Name         string        `yaml:"name"`
	Issuer       string        `yaml:"issuer"`
	Audience     []string      `yaml:"audience"`
	Algorithms   []string      `yaml:"algorithms"`
	JWKSURL      string        `yaml:"jwks_url"`
	JWKSFile     string        `yaml:"jwks_file,path"`
	CAFile       string        `yaml:"ca_file,path"`
	SubjectClaim string        `yaml:"subject_claim"`
	GroupsClaim  string        `yaml:"groups_claim"`
	GroupPrefix  string        `yaml:"group_prefix"`
	MaxLifetime  time.Duration `yaml:"max_lifetime"`
}

// MTLS says how a client certificate names its principal.
type MTLS struct {
	Names           []string `yaml:"names"`
	OUGroups        bool     `yaml:"ou_groups"`
	GroupPrefix     string   `yaml:"group_prefix"`
	AllowExpiredCRL bool     `yaml:"allow_expired_crl"`
	AllowMissingCRL bool     `yaml:"allow_missing_crl"`
}

// Policies are Cedar files, or directories of them.
type Policies struct {
	Files []string `yaml:"files,path"`
}

// Rotation bounds the policies of keys and says which acts need two people.
type Rotation struct {
	MinPeriod       time.Duration `yaml:"min_period"`
	MinDestroyDelay time.Duration `yaml:"min_destroy_delay"`
	Propagation     time.Duration `yaml:"propagation"`
	TwoPeople       []string      `yaml:"two_people"` // of the TwoPeople constants
	ApprovalLife    time.Duration `yaml:"approval_life"`
}

// Acts that may need a second person.
const (
	TwoPeopleDestroy   = "destroy"
	TwoPeopleDeleteKey = "delete-key"
)

// Trigger rotates keys when something outside orders it.
type Trigger struct {
	Name   string   `yaml:"name"`
	Keys   []string `yaml:"keys"`
	Reason string   `yaml:"reason"`
}

// Events is the stream of events.
type Events struct {
	Keep time.Duration `yaml:"keep"`
}

// Webhook is an endpoint that events are delivered to. Its URL may hold a
// secret: nothing shows it.
type Webhook struct {
	Name        string        `yaml:"name"`
	URL         string        `yaml:"url"`
	Keys        []string      `yaml:"keys"`   // empty: of every key
	Events      []string      `yaml:"events"` // empty: every type
	SigningKey  string        `yaml:"signing_key"`
	CAFile      string        `yaml:"ca_file,path"` // "": the system's CAs
	Timeout     time.Duration `yaml:"timeout"`
	GiveUpAfter time.Duration `yaml:"give_up_after"`
}

// Limits bound what one caller can take.
type Limits struct {
	RequestsPerSecond       int `yaml:"requests_per_second"` // 0: no limit
	Burst                   int `yaml:"burst"`               // 0: as requests_per_second
	InFlight                int `yaml:"in_flight"`           // 0: no limit
	FailedLoginsPerMinute   int `yaml:"failed_logins_per_minute"`
	FailedLoginBurst        int `yaml:"failed_login_burst"`
	FailedDecryptsPerMinute int `yaml:"failed_decrypts_per_minute"`
	FailedDecryptBurst      int `yaml:"failed_decrypt_burst"`
}

// Request bounds one request.
type Request struct {
	MaxBody      strictyaml.Size `yaml:"max_body"`
	MaxBatchBody strictyaml.Size `yaml:"max_batch_body"`
	MaxInFlight  int             `yaml:"max_in_flight"`
	Timeout      time.Duration   `yaml:"timeout"`
}

// Log is the program's own log, not the audit log.
type Log struct {
	Level  string `yaml:"level"`
	Format string `yaml:"format"`
	Access bool   `yaml:"access"`
}

// SlogLevel returns the configured level.
func (l Log) SlogLevel() slog.Level {
	var level slog.Level
	if err := level.UnmarshalText([]byte(l.Level)); err != nil {
		return slog.LevelInfo // Load refuses every other word
	}
	return level
}
