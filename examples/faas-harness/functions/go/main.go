// The papers' functions, one program: the environment variable FUNCTION says which one it is.
//
//	PORT       where it serves HTTP [80]
//	READY_URL  where it POSTs once that it serves [nowhere]
//	DATA       the folder with `file` and `archive.zip` [/data]
//
// `functions prepare FOLDER` makes the two files of DATA.
package main

import (
	"fmt"
	"log"
	"net"
	"net/http"
	"os"
	"path/filepath"
)

func setting(name, fallback string) string {
	if value := os.Getenv(name); value != "" {
		return value
	}
	return fallback
}

// answer is what a function computes for one request.
type answer func() (string, error)

var functions = map[string]answer{
	"noop":      func() (string, error) { return "", nil },
	"fibonacci": fibonacci,
	"fft":       fft,
	"matrix":    matrix,
	"allocate":  allocate,
	"read":      read,
	"unzip":     unzip,
}

func data(name string) string {
	return filepath.Join(setting("DATA", "/data"), name)
}

func handler(name string) (http.HandlerFunc, error) {
	if name == "file" {
		return func(w http.ResponseWriter, r *http.Request) { http.ServeFile(w, r, data("file")) }, nil
	}
	function, known := functions[name]
	if !known {
		return nil, fmt.Errorf("FUNCTION=%q is none of the functions", name)
	}
	return func(w http.ResponseWriter, r *http.Request) {
		result, err := function()
		if err != nil {
			http.Error(w, err.Error(), http.StatusInternalServerError)
			return
		}
		fmt.Fprintln(w, result)
	}, nil
}

func announce(url string) error {
	if url == "" {
		return nil
	}
	response, err := http.Post(url, "text/plain", nil)
	if err != nil {
		return err
	}
	return response.Body.Close()
}

func run() error {
	if len(os.Args) == 3 && os.Args[1] == "prepare" {
		return prepare(os.Args[2])
	}
	serve, err := handler(setting("FUNCTION", "noop"))
	if err != nil {
		return err
	}
	listener, err := net.Listen("tcp", ":"+setting("PORT", "80"))
	if err != nil {
		return err
	}
	// Connections queue up from here on, so that nobody who is told can come too early.
	if err := announce(os.Getenv("READY_URL")); err != nil {
		return err
	}
	return http.Serve(listener, serve)
}

func main() {
	if err := run(); err != nil {
		log.Fatal(err)
	}
}
