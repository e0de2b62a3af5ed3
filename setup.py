"Installs what settings.ini describes."
import re
from configparser import ConfigParser
from pathlib import Path

from setuptools import find_packages, setup

HERE = Path(__file__).parent
parser = ConfigParser(delimiters=['='])
parser.read(HERE/'settings.ini', encoding='utf-8')
cfg = parser['DEFAULT']


def page() -> str:
    "The README for the registry's page, which knows no folders: links lead to the repository."
    text = (HERE/'README.md').read_text(encoding='utf-8')
    raw = cfg['git_url'].replace('https://github.com', 'https://raw.githubusercontent.com')
    text = re.sub(r'(\]\(|src=")(?=nbs/[^)"]*\.png)', rf'\1{raw}/{cfg["branch"]}/', text)
    return re.sub(r'\]\((?!https?:|#|mailto:)', f']({cfg["git_url"]}/blob/{cfg["branch"]}/', text)


setup(
    name=cfg['lib_name'],
    version=cfg['version'],
    description=cfg['description'],
    long_description=page(),
    long_description_content_type='text/markdown',
    url=cfg['git_url'],
    project_urls={'Documentation': cfg['doc_host'] + cfg['doc_baseurl'],
                  'Changes': f'{cfg["git_url"]}/blob/{cfg["branch"]}/CHANGELOG.md'},
    author=cfg['author'],
    license='Apache-2.0',
    license_files=['LICENSE'],
    keywords=cfg['keywords'],
    classifiers=[
        'Development Status :: 4 - Beta', 'Intended Audience :: Education', 'Intended Audience :: Science/Research',
        'Framework :: Jupyter', 'Topic :: Scientific/Engineering :: Artificial Intelligence', 'Typing :: Typed',
        *(f'Programming Language :: Python :: {v}' for v in ('3', '3.11', '3.12', '3.13'))],
    packages=find_packages(include=[cfg['lib_name'], cfg['lib_name'] + '.*']),
    python_requires='>=' + cfg['min_python'],
    install_requires=cfg['requirements'].split(),
    extras_require={name.removesuffix('_requirements'): cfg[name].split() for name in cfg
                    if name.endswith('_requirements')},
    package_data={cfg['lib_name']: ['py.typed', 'weights/*']},
    data_files=[('share/edm_nbdev', [f'nbs/{name}' for name in  # for edm_playground
                                     ('11_playground.ipynb', '11_playground.html.j2', '15_clothes.png')])],
    entry_points={'console_scripts': cfg['console_scripts'].split(),
                  'nbdev': [f'{cfg["lib_name"]}={cfg["lib_name"]}._modidx:d']},
)
