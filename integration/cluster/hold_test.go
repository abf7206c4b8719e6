package cluster

import (
	"context"
	"database/sql"
	"slices"
	"time"

	"keyhole/integration/internal/proc"
)

// holder lets gateways stand still in front of a write of their choice: a
// trigger in the database makes the transaction wait for a lock. Who is killed
// there has done all that comes before the write, and not the write.
type holder struct {
	s    *site
	db   *sql.DB   // to look
	lock *sql.Conn // has the lock
}

const holdLock = 4711

// holder puts the triggers in, once the tables are there. A row of kit.hold
// holds what it names: the phase that a rotation of the key is to be in, or
// "destroyed" for its versions.
func (s *site) holder() *holder {
	s.t.Helper()
	h := &holder{s: s, db: s.db.Admin(s.t)}
	lock, err := s.db.Admin(s.t).Conn(s.t.Context())
	must(s.t, err)
	h.lock = lock
	h.exec(`CREATE SCHEMA kit`)
	h.exec(`GRANT USAGE ON SCHEMA kit TO PUBLIC`)
	h.exec(`CREATE TABLE kit.hold (key_name text, what text)`)
	h.exec(`GRANT SELECT ON kit.hold TO PUBLIC`)
	h.exec(`CREATE FUNCTION kit.hold_rotation() RETURNS trigger AS $$ BEGIN
		IF EXISTS (SELECT 1 FROM kit.hold h WHERE h.key_name = NEW.key_name AND h.what = NEW.phase) THEN
			PERFORM pg_advisory_xact_lock(4711);
		END IF;
		RETURN NEW; END $$ LANGUAGE plpgsql`)
	h.exec(`CREATE FUNCTION kit.hold_version() RETURNS trigger AS $$ BEGIN
		IF NEW.destroyed_at IS NOT NULL AND EXISTS (SELECT 1 FROM kit.hold h WHERE h.key_name = NEW.key_name AND h.what = 'destroyed') THEN
			PERFORM pg_advisory_xact_lock(4711);
		END IF;
		RETURN NEW; END $$ LANGUAGE plpgsql`)
	h.exec(`CREATE TRIGGER kit_hold BEFORE INSERT OR UPDATE ON rotations FOR EACH ROW EXECUTE FUNCTION kit.hold_rotation()`)
	h.exec(`CREATE TRIGGER kit_hold BEFORE INSERT OR UPDATE ON versions FOR EACH ROW EXECUTE FUNCTION kit.hold_version()`)
	return h
}

func (h *holder) exec(statement string, args ...any) {
	h.s.t.Helper()
	if _, err := h.db.ExecContext(h.s.t.Context(), statement, args...); err != nil {
		h.s.t.Fatalf("%s: %v", statement, err)
	}
}

// hold makes writes wait from now on.
func (h *holder) hold(key, what string) {
	h.s.t.Helper()
	if _, err := h.lock.ExecContext(h.s.t.Context(), "SELECT pg_advisory_lock($1)", holdLock); err != nil {
		h.s.t.Fatal(err)
	}
	h.exec("INSERT INTO kit.hold VALUES ($1, $2)", key, what)
}

// held waits until a gateway stands there, and returns it.
func (h *holder) held() *gate {
	h.s.t.Helper()
	var name string
	proc.Eventually(h.s.t, "a gateway is held", func() bool {
		ctx, cancel := context.WithTimeout(h.s.t.Context(), 10*time.Second)
		defer cancel()
		err := h.db.QueryRowContext(ctx, `SELECT a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
			WHERE l.locktype = 'advisory' AND NOT l.granted AND l.objid = $1 AND a.datname = current_database() LIMIT 1`, holdLock).Scan(&name)
		return err == nil
	})
	i := slices.IndexFunc(h.s.gates, func(g *gate) bool { return g.name == name })
	if i < 0 {
		h.s.t.Fatalf("held is %q, which is no gateway", name)
	}
	return h.s.gates[i]
}

// release lets go of what is held: its transaction fails if its gateway is
// dead.
func (h *holder) release() {
	h.s.t.Helper()
	h.exec("DELETE FROM kit.hold")
	if _, err := h.lock.ExecContext(h.s.t.Context(), "SELECT pg_advisory_unlock($1)", holdLock); err != nil {
		h.s.t.Fatal(err)
	}
}

// kill kills the gateway that is held and lets its transaction fail: the
// server is told first, or it would go on to the end of the statement.
func (h *holder) kill() *gate {
	h.s.t.Helper()
	g := h.held()
	g.kill()
	h.exec(`SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE application_name = $1 AND datname = current_database()`, g.name)
	h.release()
	return g
}
