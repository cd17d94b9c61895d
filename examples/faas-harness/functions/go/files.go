package main

import (
	"archive/zip"
	"fmt"
	"io"
	"math/rand"
	"os"
	"path/filepath"
)

const fileBytes = 50 << 20

// read brings the file of 50 MiB into memory.
func read() (string, error) {
	content, err := os.ReadFile(data("file"))
	return fmt.Sprint(len(content)), err
}

// unzip unpacks the archive into nothing and gives the bytes that were in it.
func unzip() (string, error) {
	archive, err := zip.OpenReader(data("archive.zip"))
	if err != nil {
		return "", err
	}
	defer archive.Close()
	total := int64(0)
	for _, member := range archive.File {
		content, err := member.Open()
		if err != nil {
			return "", err
		}
		count, err := io.Copy(io.Discard, content)
		content.Close()
		if err != nil {
			return "", err
		}
		total += count
	}
	return fmt.Sprint(total), nil
}

// prepare makes the files: numbers that always are the same and do not shrink to nothing when packed.
func prepare(folder string) error {
	content := make([]byte, fileBytes)
	random := rand.New(rand.NewSource(1))
	for i := range content {
		content[i] = byte(random.Intn(16))
	}
	if err := os.MkdirAll(folder, 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(filepath.Join(folder, "file"), content, 0o644); err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(folder, "archive.zip"))
	if err != nil {
		return err
	}
	defer file.Close()
	archive := zip.NewWriter(file)
	member, err := archive.Create("file")
	if err != nil {
		return err
	}
	if _, err := member.Write(content); err != nil {
		return err
	}
	return archive.Close()
}
