package config

import (
	"net/url"
	"strings"
	"time"
)

func (k *checker) storage() {
	s := k.c.Store
	_, sqlite := k.c.lines["store.sqlite"]
	_, postgres := k.c.lines["store.postgres"]
	switch {
	case sqlite == postgres:
		k.addf("store", "give either sqlite, the file of a database for one gateway, or postgres, a database for several")
	case sqlite:
		if k.required("store.sqlite", s.SQLite, "the file of the key database; it is made if it does not exist") {
			k.parent("store.sqlite", s.SQLite)
		}
	default:
		k.postgres()
	}
	k.between("store.start_wait", s.StartWait, 0, time.Hour)
	k.between("store.max_staleness", s.MaxStaleness, time.Second, time.Hour)
	k.between("store.poll", s.Poll, 10*time.Millisecond, time.Minute)
	if s.Poll >= s.MaxStaleness {
		k.addf("store.poll", "is %s; it must be shorter than max_staleness (%s)", s.Poll, s.MaxStaleness)
	}
	k.audit()
}

func (k *checker) postgres() {
	const at = "store.postgres"
	p := k.c.Store.Postgres
	if k.required(at+".url", p.URL, "where the database is, like postgres://keyhole@db.example/keyhole?sslmode=verify-full") {
		k.postgresURL(at+".url", p.URL)
	}
	k.file(at+".password_file", p.PasswordFile, readByAll|writeByAll)
	k.file(at+".ca_file", p.CAFile, writeByAll)
	k.file(at+".cert_file", p.CertFile, writeByAll)
	k.file(at+".key_file", p.KeyFile, readByAll|writeByAll)
	if (p.CertFile == "") != (p.KeyFile == "") {
		k.addf(at+".cert_file", "goes with key_file: give both or none")
	}
}

// CheckPostgres checks p as if it stood in a file. name says in the error
// where it stands.
func CheckPostgres(name string, p Postgres) error {
	k := &checker{c: &Config{File: name, Store: Store{Postgres: p}}, broken: map[string]bool{}}
	k.postgres()
	if len(k.problems) > 0 {
		return k.problems
	}
	return nil
}

// settings are those of a URL that have a place of their own.
var settings = map[string]string{
	"password": "password_file", "passfile": "password_file", "sslrootcert": "ca_file", "sslcert": "cert_file", "sslkey": "key_file", "sslpassword": "key_file",
}

// postgresURL never shows the URL: it may hold a password.
func (k *checker) postgresURL(path, text string) {
	scheme, rest, _ := strings.Cut(text, "://")
	rest, query, _ := strings.Cut(rest, "?")
	hosts, database, _ := strings.Cut(rest, "/")
	who := ""
	if i := strings.LastIndex(hosts, "@"); i >= 0 {
		who = hosts[:i]
	}
	user, _, password := strings.Cut(who, ":")
	values, err := url.ParseQuery(query)
	switch {
	case scheme != "postgres" && scheme != "postgresql":
		k.addf(path, "is no URL like postgres://keyhole@db.example/keyhole?sslmode=verify-full")
		return
	case password:
		k.addf(path, "holds a password; put it into a file of mode 0600 and name that in password_file")
		return
	case err != nil:
		k.addf(path, "is not spelled right behind '?'; write name=value, with & between")
		return
	}
	for name := range values {
		if field, ok := settings[name]; ok {
			k.addf(path, "holds %s; give %s instead", name, field)
			return
		}
	}
	if user == "" && values.Get("user") == "" {
		k.addf(path, "names no user; write postgres://USER@HOST/DATABASE")
	}
	if database == "" && values.Get("dbname") == "" {
		k.addf(path, "names no database; write postgres://USER@HOST/DATABASE")
	}
}
