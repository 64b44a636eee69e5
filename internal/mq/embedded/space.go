package embedded

import (
	"errors"

	"github.com/cockroachdb/pebble/v2/vfs"

	"github.com/sluice-mq/sluice/internal/mq"
)

const (
	freePercent = 5
	// freeFloor is three memtables and their files: what Pebble may still have to write after the last record was taken.
	freeFloor = 64 << 20
)

// usage asks for the disk's size and free space; a file system that cannot tell has no limit.
func (s *Store) usage() (free, total int64, known bool) {
	u, err := s.fs.GetDiskUsage(s.cfg.Dir)
	if err != nil {
		if !errors.Is(err, vfs.ErrUnsupported) {
			s.log.Warn("cannot tell the free space", "err", err)
		}
		return 0, 0, false
	}
	return int64(u.AvailBytes), int64(u.TotalBytes), true
}

func (s *Store) minFree(total int64) int64 {
	if s.cfg.MinFreeBytes > 0 {
		return s.cfg.MinFreeBytes
	}
	return max(total/100*freePercent, freeFloor)
}

// roomFor fails with class DiskFull where writing n bytes would leave less free space than there has to be. It is asked
// before each group of writes: a system call of a microsecond against a sync of a hundred.
func (s *Store) roomFor(n int) error {
	free, total, known := s.usage()
	if !known {
		return nil
	}
	s.m.freeBytes.Set(float64(free))
	if limit := s.minFree(total); free-int64(n) < limit {
		s.m.diskFull.Inc()
		return mq.Errorf(mq.DiskFull, "%s has %d MiB free, writes stop below %d MiB; free some space, or shorten the retention",
			s.cfg.Dir, free>>20, limit>>20)
	}
	return nil
}
