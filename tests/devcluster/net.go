package main

import (
	"bufio"
	"fmt"
	"io"
	"net"
	"os"
	"path/filepath"
	"strings"
)

// forward passes every connection on, until the listener is closed.
func forward(listener net.Listener, to string) {
	for {
		from, err := listener.Accept()
		if err != nil {
			return
		}
		go func() {
			defer from.Close()
			upstream, err := net.Dial("tcp", to)
			if err != nil {
				return
			}
			defer upstream.Close()
			go func() {
				io.Copy(upstream, from)
				upstream.(*net.TCPConn).CloseWrite()
			}()
			io.Copy(from, upstream)
		}()
	}
}

const socketName = "supervisor.sock"

// socketPath reaches DIR/supervisor.sock through an open directory: the kernel allows 108 bytes, and checkouts lie deep.
func socketPath(dir string) (string, func(), error) {
	opened, err := os.Open(dir)
	if err != nil {
		return "", nil, err
	}
	return fmt.Sprintf("/proc/self/fd/%d/%s", opened.Fd(), socketName), func() { opened.Close() }, nil
}

func listenSocket(dir string) (net.Listener, error) {
	path, done, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	os.Remove(filepath.Join(dir, socketName))
	listener, err := net.Listen("unix", path)
	if err != nil {
		return nil, err
	}
	listener.(*net.UnixListener).SetUnlinkOnClose(false)
	return listener, os.Chmod(filepath.Join(dir, socketName), 0o600)
}

func dialSocket(dir string) (net.Conn, error) {
	path, done, err := socketPath(dir)
	if err != nil {
		return nil, err
	}
	defer done()
	return net.Dial("unix", path)
}

// unmounted makes sure that removing a tree removes nothing that is only mounted there.
func unmounted(dir string) error {
	file, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return err
	}
	defer file.Close()
	for lines := bufio.NewScanner(file); lines.Scan(); {
		fields := strings.Fields(lines.Text())
		if len(fields) > 4 && strings.HasPrefix(fields[4]+"/", dir+"/") {
			return fmt.Errorf("%s is still mounted; unmount it, then run `devcluster down` again", fields[4])
		}
	}
	return nil
}
