package postgres

import (
	"context"
	"database/sql/driver"
	"reflect"
	"strconv"
	"strings"
	"sync"
	"unicode/utf8"

	"github.com/jackc/pgx/v5/stdlib"

	"keyhole/keys"
)

// conn is a connection that takes what SQLite takes: placeholders that are
// written ?, and texts with zero bytes.
type conn struct {
	*stdlib.Conn
	unfit bool // a transaction has seen that this server takes no writes any more
}

// ExecContext implements driver.ExecerContext.
func (c *conn) ExecContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Result, error) {
	if err := encode(args); err != nil {
		return nil, err
	}
	res, err := c.Conn.ExecContext(ctx, numbered(query), args)
	c.judge(err)
	return res, err
}

// QueryContext implements driver.QueryerContext.
func (c *conn) QueryContext(ctx context.Context, query string, args []driver.NamedValue) (driver.Rows, error) {
	if err := encode(args); err != nil {
		return nil, err
	}
	found, err := c.Conn.QueryContext(ctx, numbered(query), args)
	c.judge(err)
	if err != nil {
		return nil, err
	}
	return &rows{found.(*stdlib.Rows)}, nil
}

// PrepareContext implements driver.ConnPrepareContext. The connection keeps
// its statements prepared anyway.
func (c *conn) PrepareContext(_ context.Context, query string) (driver.Stmt, error) {
	return &stmt{c, query}, nil
}

// IsValid implements driver.Validator.
func (c *conn) IsValid() bool { return !c.unfit && !c.Conn.Conn().IsClosed() }

func (c *conn) judge(err error) { c.unfit = c.unfit || State(err) == readOnly }

type stmt struct {
	*conn
	query string
}

func (s *stmt) Close() error  { return nil }
func (s *stmt) NumInput() int { return -1 }

// Exec implements driver.Stmt.
func (s *stmt) Exec([]driver.Value) (driver.Result, error) { return nil, driver.ErrSkip }

// Query implements driver.Stmt.
func (s *stmt) Query([]driver.Value) (driver.Rows, error) { return nil, driver.ErrSkip }

// ExecContext implements driver.StmtExecContext.
func (s *stmt) ExecContext(ctx context.Context, args []driver.NamedValue) (driver.Result, error) {
	return s.conn.ExecContext(ctx, s.query, args)
}

// QueryContext implements driver.StmtQueryContext.
func (s *stmt) QueryContext(ctx context.Context, args []driver.NamedValue) (driver.Rows, error) {
	return s.conn.QueryContext(ctx, s.query, args)
}

type rows struct{ *stdlib.Rows }

// Next implements driver.Rows.
func (r *rows) Next(dest []driver.Value) error {
	if err := r.Rows.Next(dest); err != nil {
		return err
	}
	for i, v := range dest {
		if s, ok := v.(string); ok {
			dest[i] = unescape(s)
		}
	}
	return nil
}

// queries remembers the form that each query has for PostgreSQL. There are as
// many as are written in the store.
var queries sync.Map

// numbered writes $1, $2 and so on for each ?. There is none in any text of a
// query.
func numbered(query string) string {
	if known, ok := queries.Load(query); ok {
		return known.(string)
	}
	var b strings.Builder
	for i, part := range strings.Split(query, "?") {
		if i > 0 {
			b.WriteByte('$')
			b.WriteString(strconv.Itoa(i))
		}
		b.WriteString(part)
	}
	queries.Store(query, b.String())
	return b.String()
}

// encode writes texts as PostgreSQL can keep them.
func encode(args []driver.NamedValue) error {
	for i, a := range args {
		v := a.Value
		if valuer, ok := v.(driver.Valuer); ok {
			var err error
			if v, err = valuer.Value(); err != nil {
				return err
			}
		}
		if r := reflect.ValueOf(v); r.Kind() == reflect.String {
			s := r.String()
			if !utf8.ValidString(s) {
				return keys.Errorf(keys.ErrInvalid, "a text that is not UTF-8 cannot be kept, nor be looked for")
			}
			v = escape(s)
		}
		args[i].Value = v
	}
	return nil
}

// PostgreSQL has no zero byte in texts. Zero is kept as 1 1 and one as 1 2,
// which keeps the texts apart and in their order.
var (
	escaper   = strings.NewReplacer("\x00", "\x01\x01", "\x01", "\x01\x02")
	unescaper = strings.NewReplacer("\x01\x01", "\x00", "\x01\x02", "\x01")
)

func escape(s string) string {
	if strings.IndexByte(s, 0) < 0 && strings.IndexByte(s, 1) < 0 {
		return s
	}
	return escaper.Replace(s)
}

func unescape(s string) string {
	if strings.IndexByte(s, 1) < 0 {
		return s
	}
	return unescaper.Replace(s)
}
