package embedded

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"sync"
	"sync/atomic"
	"time"

	"github.com/cockroachdb/pebble/v2"
	"github.com/cockroachdb/pebble/v2/vfs"
	"github.com/prometheus/client_golang/prometheus"

	"github.com/sluice-mq/sluice/internal/mq"
)

// broker is the name of the only broker there is.
const broker = "embedded"

// Store is an open store; it is an mq.Driver. Make it with Open.
type Store struct {
	cfg    Config
	log    *slog.Logger
	m      *metrics
	reg    prometheus.Registerer
	fs     vfs.FS
	now    func() time.Time
	lock   io.Closer
	queue  *queue
	floor  atomic.Int64 // epochs of groups begin above it
	closed sync.Once

	closing chan struct{} // closed when Close begins
	stop    context.CancelFunc
	loops   sync.WaitGroup // retention and recovery
	written chan struct{}  // closed when the committer has ended
	ended   chan struct{}  // closed when Close is through
	endErr  error          // what Close answers; read after ended

	// life is held shared while db is used, never over a wait for a record, and exclusively while db is replaced.
	life    sync.RWMutex
	db      *pebble.DB
	cache   *pebble.Cache
	failure atomic.Pointer[stopped]
	failed  chan struct{} // has an element after a failure, for the recovery

	topicsMu  sync.RWMutex // guards the next two; changed by the committer only
	topics    map[mq.Topic]*topic
	lastTopic uint64

	groupsMu sync.Mutex // guards groups; taken before a group's own lock
	groups   map[string]*group
}

var _ mq.Driver = (*Store)(nil)

// stopped is why the store takes no writes.
type stopped struct {
	cause error
	since time.Time
}

func (e *stopped) error() *mq.Error {
	class, what := mq.Fatal, "restart the node once the disk is sound"
	if isSpace(e.cause) {
		class, what = mq.DiskFull, "free some space, it then goes on by itself"
	}
	return &mq.Error{
		Class: class, Broker: broker, Cause: e.cause,
		Msg: fmt.Sprintf("the store stopped writing at %s after a write error; %s", e.since.UTC().Format(time.RFC3339), what),
	}
}

// Kind implements mq.Driver.
func (s *Store) Kind() mq.Kind { return mq.Embedded }

// Caps implements mq.Driver.
func (s *Store) Caps(ctx context.Context) (mq.Caps, error) {
	if err := s.ready(ctx); err != nil {
		return mq.Caps{}, err
	}
	return mq.Caps{
		Headers: true, CommitMetadata: maxMapBytes, FencedCommits: true, CreateTopics: true, DeleteTopics: true, AddPartitions: true, DeleteGroups: true, TopicConfigs: true,
		DeleteRecords: true, TimeLookup: true, SyncedBeforeAck: s.cfg.Durability == Sync, MaxRecordBytes: s.cfg.MaxRecordBytes,
		Version: fmt.Sprintf("embedded/%d", formatVersion),
	}, nil
}

// Producer implements mq.Driver.
func (s *Store) Producer() mq.Producer { return producer{s} }

// Reader implements mq.Driver.
func (s *Store) Reader() mq.Reader { return reader{s} }

// Admin implements mq.Driver.
func (s *Store) Admin() mq.Admin { return admin{s} }

// Probe implements mq.Driver: the store is well while it can take writes.
func (s *Store) Probe(ctx context.Context) []mq.BrokerHealth {
	start := time.Now()
	err := s.ready(ctx)
	if err == nil {
		err = s.writable()
	}
	if err == nil {
		err = s.roomFor(0)
	}
	return []mq.BrokerHealth{{Broker: broker, Address: s.cfg.Dir, Controller: true, Latency: time.Since(start), Err: err}}
}

// Failed is why the store takes no writes at the moment: a write error that stopped it, or nil.
func (s *Store) Failed() error { return s.writable() }

// Stats are sizes of a store.
type Stats struct {
	Topics, Partitions int
	LogBytes           int64 // what the records and positions take by themselves; retention goes by it
	DiskBytes          int64 // what their files take, deleted records not yet compacted away included
}

// Stats looks the sizes up; it reads no data.
func (s *Store) Stats() Stats {
	var st Stats
	for _, t := range s.allTopics() {
		st.Topics++
		st.Partitions += len(t.parts)
		for _, p := range t.parts {
			v := p.view()
			st.LogBytes += v.sum - v.low
		}
	}
	if db, release, err := s.use(); err == nil {
		st.DiskBytes = int64(db.Metrics().DiskSpaceUsage())
		release()
	}
	return st
}

// Close implements mq.Driver: writes that were taken are finished, waits are ended, and the folder is free for another
// process when it returns nil. At ctx's end it returns while the closing goes on.
func (s *Store) Close(ctx context.Context) error {
	s.closed.Do(func() {
		close(s.closing)
		s.stop()
		s.queue.close()
		go func() {
			defer close(s.ended)
			s.endErr = s.shut()
		}()
	})
	select {
	case <-s.ended:
		return s.endErr
	case <-ctx.Done():
		return fmt.Errorf("close embedded store %s: a write is still waiting for the disk: %w", s.cfg.Dir, context.Cause(ctx))
	}
}

func (s *Store) shut() error {
	<-s.written
	s.loops.Wait()
	s.life.Lock()
	defer s.life.Unlock()
	var errs []error
	if s.failure.Load() == nil {
		errs = append(errs, s.db.Close())
		s.cache.Unref()
	} else {
		abandon(s.db, s.cache)
	}
	s.db = nil
	errs = append(errs, s.lock.Close())
	s.m.unregister(s.reg)
	if err := errors.Join(errs...); err != nil {
		return fmt.Errorf("close embedded store %s: %w", s.cfg.Dir, err)
	}
	return nil
}

// ready fails once the store is closed or ctx has ended.
func (s *Store) ready(ctx context.Context) error {
	select {
	case <-s.closing:
		return errClosed()
	default:
	}
	if ctx.Err() != nil {
		return ended(ctx)
	}
	return nil
}

// writable fails while the store is stopped by a write error.
func (s *Store) writable() error {
	if f := s.failure.Load(); f != nil {
		return f.error()
	}
	return nil
}

// use gives the database for reading until release is called.
func (s *Store) use() (db *pebble.DB, release func(), err error) {
	s.life.RLock()
	if s.db == nil {
		s.life.RUnlock()
		return nil, nil, errClosed()
	}
	return s.db, s.life.RUnlock, nil
}

func errClosed() *mq.Error { return mq.Errorf(mq.Closed, "the embedded store is closed") }

// ended is the error of a wait that ctx cut short.
func ended(ctx context.Context) *mq.Error {
	return &mq.Error{Class: mq.Timeout, Msg: "the caller stopped waiting", Cause: context.Cause(ctx)}
}

// damaged is the error of a read that finds what cannot be.
func damaged(id mq.PartitionID, offset int64, err error) *mq.Error {
	return &mq.Error{
		Class: mq.Fatal, Broker: broker, Cause: err,
		Msg: fmt.Sprintf("topic %s partition %s cannot be read at offset %d", id.Topic, id, offset),
	}
}
