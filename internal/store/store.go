// Package store is the control plane's memory: clusters, topics, groups,
// tokens, keys and nodes in SQL. SQLite is the database of one control node;
// every statement is written through bun so that PostgreSQL can take its place.
//
// Each write is one transaction that raises the store's version by one; rows
// carry the version of their last write, so that a writer who based a change on
// an older one is told (ErrConflict). State is all of it at one version.
package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"net/url"
	"os"
	"path/filepath"
	"time"
	"uuid"

	"github.com/pressly/goose/v3"
	"github.com/uptrace/bun"
	"github.com/uptrace/bun/dialect/sqlitedialect"
	_ "modernc.org/sqlite" // the driver "sqlite"
)

// What callers act on; errors.Is asks for them.
var (
	ErrNotFound = errors.New("not in the store")
	ErrExists   = errors.New("in the store already")
	// ErrConflict: the stored version is not the one that the write was based on.
	ErrConflict = errors.New("changed in the meantime")
	// ErrInUse: something else refers to it.
	ErrInUse = errors.New("still in use")
	// ErrUsed: a one-time secret was used before, or never was one.
	ErrUsed = errors.New("used before")
	// ErrExpired: a one-time secret was not used in time.
	ErrExpired = errors.New("expired")
)

//go:embed migrations/*.sql
var migrations embed.FS

// busyTimeout is how long a write waits for another process (a backup, a shell) to end its own.
const busyTimeout = 10 * time.Second

// Store is an open database. All methods may be called by any goroutine.
type Store struct {
	db  *bun.DB
	now func() time.Time
}

// Open opens the SQLite file, makes it where it is missing (mode 0600) and
// brings its schema up to date. A file of a newer release is refused.
func Open(ctx context.Context, path string, now func() time.Time) (*Store, error) {
	// SQLite would make the file with the process's umask; hashes and sealed keys are nobody's business.
	f, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o600)
	if err != nil {
		return nil, fmt.Errorf("open control store: %w", err)
	}
	if err := f.Close(); err != nil {
		return nil, fmt.Errorf("open control store: %w", err)
	}
	abs, err := filepath.Abs(path)
	if err != nil {
		return nil, fmt.Errorf("open control store: %w", err)
	}
	// WAL lets readers work beside the writer. Without _txlock=immediate a transaction
	// that reads before it writes fails at once when another one wrote in between.
	dsn := (&url.URL{Scheme: "file", Path: abs, RawQuery: url.Values{
		"_pragma": {
			"journal_mode(WAL)", fmt.Sprintf("busy_timeout(%d)", busyTimeout.Milliseconds()), "foreign_keys(1)",
			"synchronous(FULL)", // an answered write survives a power cut
		},
		"_txlock": {"immediate"},
	}.Encode()}).String()
	db, err := sql.Open("sqlite", dsn)
	if err != nil {
		return nil, fmt.Errorf("open control store %s: %w", path, err)
	}
	db.SetMaxOpenConns(4) // one writes at a time anyhow; the rest read
	s := &Store{db: bun.NewDB(db, sqlitedialect.New()), now: now}
	if err := s.prepare(ctx); err != nil {
		return nil, errors.Join(fmt.Errorf("open control store %s: %w", path, err), s.db.Close())
	}
	return s, nil
}

func (s *Store) prepare(ctx context.Context) error {
	p, err := s.provider()
	if err != nil {
		return err
	}
	current, target, err := p.GetVersions(ctx)
	if err != nil {
		return fmt.Errorf("read schema version: %w", err)
	}
	if current > target {
		return fmt.Errorf("its schema is version %d, this build knows up to %d; start the release that wrote it, or a newer one", current, target)
	}
	if _, err := p.Up(ctx); err != nil {
		return fmt.Errorf("migrate: %w", err)
	}
	m := meta{ID: 1, StoreID: uuid.NewV7().String()}
	_, err = s.db.NewInsert().Model(&m).On("CONFLICT (id) DO NOTHING").Exec(ctx)
	return err
}

func (s *Store) provider() (*goose.Provider, error) {
	dir, err := fs.Sub(migrations, "migrations")
	if err != nil {
		return nil, err
	}
	return goose.NewProvider(goose.DialectSQLite3, s.db.DB, dir)
}

// Close closes the database.
func (s *Store) Close() error { return s.db.Close() }

// Load reads everything at one version.
func (s *Store) Load(ctx context.Context) (*State, error) {
	var st *State
	err := s.db.RunInTx(ctx, &sql.TxOptions{ReadOnly: true}, func(ctx context.Context, tx bun.Tx) (err error) {
		st, err = load(ctx, tx)
		return err
	})
	if err != nil {
		return nil, fmt.Errorf("read control store: %w", err)
	}
	return st, nil
}

// errDry rolls a dry run back.
var errDry = errors.New("dry run")

// Write runs fn in a transaction, raises the version, and gives the state after
// it; an error of fn undoes everything and comes back as it is.
func (s *Store) Write(ctx context.Context, fn func(context.Context, *Tx) error) (*State, error) {
	return s.write(ctx, false, fn)
}

// Try is Write without the effect: the transaction is undone at its end.
func (s *Store) Try(ctx context.Context, fn func(context.Context, *Tx) error) (*State, error) {
	return s.write(ctx, true, fn)
}

func (s *Store) write(ctx context.Context, dry bool, fn func(context.Context, *Tx) error) (*State, error) {
	var st *State
	err := s.db.RunInTx(ctx, nil, func(ctx context.Context, btx bun.Tx) error {
		tx := &Tx{tx: btx, now: s.now()}
		// First of all: on PostgreSQL the row's lock keeps writers one after the other, as SQLite does by itself.
		err := btx.NewUpdate().Model((*meta)(nil)).Set("version = version + 1").Where("id = 1").Returning("version").Scan(ctx, &tx.version)
		if err != nil {
			return fmt.Errorf("write control store: %w", err)
		}
		if err := fn(ctx, tx); err != nil {
			return err
		}
		if st, err = load(ctx, btx); err != nil {
			return fmt.Errorf("read control store: %w", err)
		}
		if dry {
			return errDry
		}
		return nil
	})
	if err != nil && !errors.Is(err, errDry) {
		return nil, err
	}
	return st, nil
}

// Tx is a write in progress; one goroutine uses it, until fn returns.
type Tx struct {
	tx      bun.Tx
	now     time.Time
	version int64
}

// Raise lifts the store's version above a version that somebody has seen
// already: after a restore from a backup snapshots must not repeat numbers.
func (t *Tx) Raise(ctx context.Context, above uint64) error {
	const most = 1 << 62 // far from overflow, and from what real writes reach
	if above >= most {
		return fmt.Errorf("raise version above %d: out of range", above)
	}
	if t.version > int64(above) {
		return nil
	}
	t.version = int64(above) + 1
	_, err := t.tx.NewUpdate().Model((*meta)(nil)).Set("version = ?", t.version).Where("id = 1").Exec(ctx)
	return err
}

// affected turns "no row changed" into err.
func affected(res sql.Result, err, none error) error {
	if err != nil {
		return err
	}
	n, err := res.RowsAffected()
	if err != nil {
		return err
	}
	if n == 0 {
		return none
	}
	return nil
}
