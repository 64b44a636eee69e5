package node

import (
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
)

func TestFolderIsHeldByOneProcess(t *testing.T) {
	t.Parallel()
	dir := filepath.Join(t.TempDir(), "a", "b")
	f, err := openFolder(dir)
	if err != nil {
		t.Fatal(err)
	}
	_, err = openFolder(dir)
	if err == nil || !strings.Contains(err.Error(), "in use by process "+strconv.Itoa(os.Getpid())) {
		t.Errorf("a second holder: %v; want an error that names the first one", err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
	f, err = openFolder(dir)
	if err != nil {
		t.Fatalf("after the first holder is gone: %v", err)
	}
	if err := f.close(); err != nil {
		t.Fatal(err)
	}
}

func TestFolderOfAnotherFormatIsRefused(t *testing.T) {
	t.Parallel()
	dir := t.TempDir()
	for _, content := range []string{"99\n", "", "one"} {
		if err := os.WriteFile(filepath.Join(dir, "version"), []byte(content), 0o600); err != nil {
			t.Fatal(err)
		}
		_, err := openFolder(dir)
		if err == nil || !strings.Contains(err.Error(), "has format") {
			t.Errorf("format %q: %v; want a refusal that names both formats", content, err)
		}
	}
}

func TestNodeKeepsItsName(t *testing.T) {
	t.Parallel()
	f, err := openFolder(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	defer f.close()
	first, err := f.nodeName("")
	if err != nil || first == "" {
		t.Fatalf("%q, %v", first, err)
	}
	again, err := f.nodeName("")
	if err != nil || again != first {
		t.Errorf("the second start is called %q (%v), the first %q", again, err, first)
	}
	if given, err := f.nodeName("n1"); err != nil || given != "n1" {
		t.Errorf("%q, %v; want the configured name", given, err)
	}
}
