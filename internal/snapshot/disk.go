package snapshot

import (
	"errors"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
)

// Names of the copies inside the folder.
const (
	currentFile  = "snapshot.current"
	previousFile = "snapshot.previous"
)

// Disk keeps the newest snapshot and the one before it in a folder. One
// goroutine at a time may use it.
type Disk struct{ dir string }

// NewDisk uses a folder, which is made where it is missing (mode 0700).
func NewDisk(dir string) (*Disk, error) {
	if err := os.MkdirAll(dir, 0o700); err != nil {
		return nil, fmt.Errorf("snapshot folder: %w", err)
	}
	return &Disk{dir: dir}, nil
}

// Load gives the newest readable copy, nil where there is none. The errors of
// copies that could not be used come along with an older one: say them loudly.
func (d *Disk) Load() (*Snapshot, error) {
	s, err := d.read(currentFile)
	if err == nil {
		return s, nil
	}
	if errors.Is(err, fs.ErrNotExist) {
		err = nil // a crash between the two renames of Save leaves the previous one alone
	}
	prev, perr := d.read(previousFile)
	if errors.Is(perr, fs.ErrNotExist) {
		perr = nil
	}
	return prev, errors.Join(err, perr)
}

func (d *Disk) read(name string) (*Snapshot, error) {
	path := filepath.Join(d.dir, name)
	f, err := os.Open(path)
	if err != nil {
		return nil, fmt.Errorf("read snapshot: %w", err)
	}
	defer f.Close()
	b, err := io.ReadAll(io.LimitReader(f, int64(MaxBytes+frameHead+1)))
	if err != nil {
		return nil, fmt.Errorf("read snapshot %s: %w", path, err)
	}
	s, err := Decode(b)
	if err != nil {
		return nil, fmt.Errorf("read snapshot %s: %w", path, err)
	}
	return s, nil
}

// Save writes a snapshot and keeps the one that was the newest as the previous
// one. At every moment of a crash one of the two is whole. A current copy that
// is damaged does not replace a good previous one.
func (d *Disk) Save(s *Snapshot) error {
	b, err := Encode(s)
	if err != nil {
		return err
	}
	next := filepath.Join(d.dir, currentFile+".next")
	if err := writeSynced(next, b); err != nil {
		return fmt.Errorf("save snapshot %d: %w", s.Version, err)
	}
	current, previous := filepath.Join(d.dir, currentFile), filepath.Join(d.dir, previousFile)
	if _, err := d.read(currentFile); err == nil {
		if err := os.Rename(current, previous); err != nil {
			return fmt.Errorf("save snapshot %d: %w", s.Version, err)
		}
	}
	if err := os.Rename(next, current); err != nil {
		return fmt.Errorf("save snapshot %d: %w", s.Version, err)
	}
	if err := syncDir(d.dir); err != nil {
		return fmt.Errorf("save snapshot %d: %w", s.Version, err)
	}
	return nil
}

// writeSynced writes a file of mode 0600: it holds receipt keys.
func writeSynced(path string, b []byte) error {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_TRUNC, 0o600)
	if err != nil {
		return err
	}
	if _, err := f.Write(b); err != nil {
		return errors.Join(err, f.Close())
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, f.Close())
	}
	return f.Close()
}

func syncDir(dir string) error {
	d, err := os.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
