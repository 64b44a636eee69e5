package embedded

import (
	"context"
	"time"
)

// recoverEvery is how often a store that was stopped by a full disk looks for space.
const recoverEvery = time.Second

// fail stops all writes: what the disk has of the failed one is unknown until the log is read again. It is called from
// within Pebble and must not block.
func (s *Store) fail(cause error) {
	if !s.failure.CompareAndSwap(nil, &stopped{cause: cause, since: s.now()}) {
		return
	}
	select {
	case s.failed <- struct{}{}:
	default:
	}
}

// recoverLoop opens the database again after a failure, when that was for want of space and space is back. After any
// other write error the disk is not to be trusted with promises: the store stays stopped (reads go on) until a restart.
func (s *Store) recoverLoop(ctx context.Context) {
	for {
		select {
		case <-s.failed:
		case <-ctx.Done():
			return
		}
		f := s.failure.Load()
		if f == nil {
			continue
		}
		s.m.failures.Inc()
		s.m.stopped.Set(1)
		s.log.Error("the embedded store stopped writing", "err", f.cause, "space", isSpace(f.cause))
		if !isSpace(f.cause) {
			continue
		}
		s.awaitSpace(ctx)
	}
}

func (s *Store) awaitSpace(ctx context.Context) {
	tick := time.NewTicker(recoverEvery)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
		case <-ctx.Done():
			return
		}
		if s.roomFor(freeFloor/4) != nil {
			continue
		}
		if err := s.reopen(); err != nil {
			s.log.Warn("the embedded store cannot be opened again yet", "err", err)
			continue
		}
		s.m.stopped.Set(0)
		s.log.Info("the embedded store goes on")
		return
	}
}

// reopen replaces the failed instance, whose gate is closed, by a new one that reads the log again. Records whose write
// failed may be there now; their producers were told so.
func (s *Store) reopen() error {
	s.life.Lock()
	defer s.life.Unlock()
	db, cache, old := s.db, s.cache, s.failure.Load()
	s.failure.Store(nil) // a failure while opening is a new one
	before := s.allTopics()
	if err := s.openDB(); err != nil {
		s.failure.CompareAndSwap(nil, old)
		return err
	}
	abandon(db, cache)
	for _, t := range before {
		for _, p := range t.parts {
			p.set(p.mark, true)
		}
	}
	for _, t := range s.allTopics() {
		s.shareTopic(t.name)
	}
	return nil
}
