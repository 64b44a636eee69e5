package embedded

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"strconv"
	"strings"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/mq"
)

// formatVersion is that of the folder: keys, values and files. A store of another version is refused.
const formatVersion = 1

// The files of the folder.
const (
	formatFile = "FORMAT" // "sluice-embedded 1"
	lockFile   = "LOCK"
	ownerFile  = "OWNER" // who holds the lock, for the error that others get
	dataFolder = "data"  // Pebble's
)

const formatName = "sluice-embedded"

// Open opens or makes the store in cfg.Dir. It takes well under a second for each GB, reads no records, and fails where
// another process has the folder or its format is another one. ctx bounds nothing but the start of the work.
func Open(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer) (*Store, error) {
	return open(ctx, cfg, log, reg, vfs.Default, time.Now)
}

func open(ctx context.Context, cfg Config, log *slog.Logger, reg prometheus.Registerer, fs vfs.FS, now func() time.Time) (*Store, error) {
	if err := errors.Join(ctx.Err(), cfg.Validate()); err != nil {
		return nil, err
	}
	s := &Store{
		cfg: cfg.withDefaults(), log: log, reg: reg, fs: fs, now: now,
		closing: make(chan struct{}), written: make(chan struct{}), ended: make(chan struct{}), failed: make(chan struct{}, 1),
		groups: make(map[string]*group),
	}
	fail := func(err error) (*Store, error) {
		return nil, fmt.Errorf("open embedded store %s: %w", s.cfg.Dir, err)
	}
	if err := makeFolder(fs, s.cfg.Dir); err != nil {
		return fail(err)
	}
	lock, err := lockFolder(fs, s.cfg.Dir, now())
	if err != nil {
		return fail(err)
	}
	s.lock = lock
	err = checkFormat(fs, s.cfg.Dir)
	if err == nil {
		err = s.openDB()
	}
	if err != nil {
		return fail(errors.Join(err, lock.Close()))
	}
	s.m = newMetrics(reg)
	s.queue = newQueue(s.cfg.QueueBytes, s.m)
	var work context.Context
	work, s.stop = context.WithCancel(context.Background())
	go s.commitLoop()
	s.loops.Go(func() { s.retain(work) })
	s.loops.Go(func() { s.recoverLoop(work) })
	return s, nil
}

// makeFolder makes the folder and those above it, and syncs the entries it made: else a power cut could take the whole
// store away, with everything in it that was synced.
func makeFolder(fs vfs.FS, dir string) error {
	var above []string
	for at := dir; ; {
		if _, err := fs.Stat(at); err == nil {
			break
		} else if !errors.Is(err, os.ErrNotExist) {
			return err
		}
		up := fs.PathDir(at)
		if up == at {
			break
		}
		above = append(above, up)
		at = up
	}
	if err := fs.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for _, up := range above {
		if err := syncFolder(fs, up); err != nil {
			return err
		}
	}
	return nil
}

func syncFolder(fs vfs.FS, dir string) error {
	d, err := fs.OpenDir(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}

// lockFolder takes the folder for this process, or says who has it.
func lockFolder(fs vfs.FS, dir string, now time.Time) (io.Closer, error) {
	owner := fs.PathJoin(dir, ownerFile)
	lock, err := fs.Lock(fs.PathJoin(dir, lockFile))
	if err != nil {
		who := "another process"
		if b, readErr := readFile(fs, owner); readErr == nil && len(b) > 0 {
			who = strings.TrimSpace(string(b))
		}
		return nil, fmt.Errorf("the folder is in use by %s; stop that one or choose another folder (%w)", who, err)
	}
	host, _ := os.Hostname() // only for people; an empty one does no harm
	line := fmt.Sprintf("process %d on host %q, started %s\n", os.Getpid(), host, now.UTC().Format(time.RFC3339))
	if err := writeFile(fs, dir, ownerFile, line); err != nil {
		return nil, errors.Join(err, lock.Close())
	}
	return lock, nil
}

// checkFormat accepts a store of this version or an empty folder, which it makes one.
func checkFormat(fs vfs.FS, dir string) error {
	b, err := readFile(fs, fs.PathJoin(dir, formatFile))
	if err == nil {
		name, version, _ := strings.Cut(strings.TrimSpace(string(b)), " ")
		n, err := strconv.Atoi(version)
		switch {
		case name != formatName || err != nil:
			return fmt.Errorf("its %s file says %.40q, which is no embedded store of Sluice; choose another folder", formatFile, b)
		case n > formatVersion:
			return fmt.Errorf("it has format %d, this program knows up to %d; run the newer release that wrote it", n, formatVersion)
		case n < formatVersion:
			return fmt.Errorf("it has format %d, this program needs %d; no conversion exists", n, formatVersion)
		}
		return nil
	}
	if !errors.Is(err, os.ErrNotExist) {
		return err
	}
	names, err := fs.List(dir)
	if err != nil {
		return err
	}
	for _, n := range names {
		if n != lockFile && n != ownerFile && !strings.HasSuffix(n, ".tmp") {
			return fmt.Errorf("it has no %s file but holds %q: no embedded store of Sluice; choose an empty folder", formatFile, n)
		}
	}
	return writeFile(fs, dir, formatFile, fmt.Sprintf("%s %d\n", formatName, formatVersion))
}

func readFile(fs vfs.FS, name string) ([]byte, error) {
	f, err := fs.Open(name)
	if err != nil {
		return nil, err
	}
	b, err := io.ReadAll(io.LimitReader(f, 4096))
	return b, errors.Join(err, f.Close())
}

// writeFile replaces a small file so that a power cut leaves the old or the new one.
func writeFile(fs vfs.FS, dir, name, content string) error {
	tmp := fs.PathJoin(dir, name+".tmp")
	f, err := fs.Create(tmp, vfs.WriteCategoryUnspecified)
	if err != nil {
		return err
	}
	_, err = io.WriteString(f, content)
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return err
	}
	if err := fs.Rename(tmp, fs.PathJoin(dir, name)); err != nil {
		return err
	}
	return syncFolder(fs, dir)
}

// openDB opens Pebble behind a gate of its own and loads what is kept in memory: topics and the ends of partitions.
// The caller has the store for itself.
func (s *Store) openDB() error {
	g := &gate{FS: s.fs, onFail: s.fail, noSync: s.cfg.Durability == Process}
	cache := pebble.NewCache(s.cfg.CacheBytes)
	db, err := pebble.Open(s.fs.PathJoin(s.cfg.Dir, dataFolder), s.options(g, cache))
	if err != nil {
		cache.Unref()
		return err
	}
	topics, last, err := loadTopics(db)
	if err == nil {
		err = s.countOpening(db)
	}
	if err != nil {
		return errors.Join(err, closeQuietly(db, cache))
	}
	s.db, s.cache = db, cache
	s.topicsMu.Lock()
	s.topics, s.lastTopic = topics, last
	s.topicsMu.Unlock()
	return nil
}

func (s *Store) options(g *gate, cache *pebble.Cache) *pebble.Options {
	return &pebble.Options{
		FS:                          g,
		Cache:                       cache,
		FormatMajorVersion:          pebble.FormatColumnarBlocks,
		MemTableSize:                uint64(s.cfg.MemTableBytes),
		MemTableStopWritesThreshold: 3,
		MaxOpenFiles:                500,
		// Writes come in bursts; the files of level 0 are merged in the background while more may pile up than by default,
		// since reads of a log look into few of them.
		L0CompactionThreshold: 4,
		L0StopWritesThreshold: 24,
		// A flush writes out in pieces, so that the sync of a commit does not wait behind a whole memtable.
		BytesPerSync: 1 << 20,
		Logger:       pebbleLog{log: s.log, g: g},
	}
}

// countOpening makes the epochs of groups grow over restarts, so that a receipt or a commit from before cannot pass.
func (s *Store) countOpening(db *pebble.DB) error {
	n, err := getUint64(db, []byte{openedKey})
	if err != nil {
		return err
	}
	n++
	// 2^31 openings with 2^32 assignments each.
	s.floor.Store(max(s.floor.Load(), int64(n)<<32))
	return db.Set([]byte{openedKey}, binary.BigEndian.AppendUint64(nil, n), pebble.Sync)
}

// closeQuietly closes an instance; where its disk fails Pebble may panic, as it expects not to live on.
func closeQuietly(db *pebble.DB, cache *pebble.Cache) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("close: %v", r)
		}
	}()
	err = db.Close()
	cache.Unref()
	return err
}

// abandon gets rid of an instance whose gate is closed. Pebble may wait for ever for a goroutine that ended in Fatalf,
// so nobody waits for it: the memory of a failed instance is the price, once for each failure.
func abandon(db *pebble.DB, cache *pebble.Cache) {
	go func() { _ = closeQuietly(db, cache) }() // its error is the failure, which was reported
}

func notFound(id mq.PartitionID) *mq.Error {
	return mq.Errorf(mq.NotFound, "topic %q has no partition %s", id.Topic, id)
}

func getUint64(db *pebble.DB, key []byte) (uint64, error) {
	value, closer, err := db.Get(key)
	if errors.Is(err, pebble.ErrNotFound) {
		return 0, nil
	}
	if err != nil {
		return 0, err
	}
	if len(value) != 8 {
		return 0, errors.Join(fmt.Errorf("key %q: %w", key, errCodec), closer.Close())
	}
	return binary.BigEndian.Uint64(value), closer.Close()
}
